//! Holds the direction in which data flows: every `crate::` path in agent/src against the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Table = BTreeMap<String, BTreeSet<String>>;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// The rows of «Who may use whom»: `| module | may use |`, names in backticks.
fn table(document: &str) -> Table {
    let section = document.split("## Who may use whom").nth(1).expect("ARCHITECTURE.md has the section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let names = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut table = Table::new();
    for row in section.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [module, uses] = cells[..] else { panic!("a row has two cells: {row}") };
        let module = names(module).pop().unwrap_or_else(|| panic!("no module in {row}"));
        assert!(table.insert(module.clone(), names(uses).into_iter().collect()).is_none(), "{module} has two rows");
    }
    table
}

/// The first segment of every `crate::a::b` and of every name in `crate::{a, b::c}`, comments left out.
fn used(source: &str) -> BTreeSet<String> {
    let code: Vec<&str> = source.lines().map(|l| l.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        // `my_crate::` is another thing.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The leading identifier.
fn head(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The heads of `a::b, c::{d, e}, f}`, up to the brace that closes it.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut begins) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        if begins && !c.is_whitespace() {
            heads.extend(head(&group[at..]));
            begins = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ => {}
        }
    }
    heads
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display())) {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// A file that only tests use: they may build events with one module to feed another.
fn is_test(file: &Path) -> bool {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || file.components().any(|c| c.as_os_str() == "tests")
}

/// A file up to its test module, which by custom stands last.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source)
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let table = table(&document());
    let src = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut files = Vec::new();
    sources(&src, &mut files);

    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("found below src");
        if is_test(inside) {
            continue;
        }
        let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let Some(allowed) = table.get(&module) else {
            panic!("{} belongs to module `{module}`, which has no row in ARCHITECTURE.md", inside.display());
        };
        let mut source =
            std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
        if module == "main" {
            // A crate of its own: it names the library's modules as `agent::`.
            source = source.replace("agent::", "crate::");
        }
        for other in used(without_tests(&source)) {
            if other != module && table.contains_key(&other) && !allowed.contains(&other) {
                wrong.push(format!("{} uses `{other}`", inside.display()));
            }
        }
        seen.insert(module);
    }
    assert!(wrong.is_empty(), "against the table in ARCHITECTURE.md:\n{}", wrong.join("\n"));
    let stale: Vec<_> = table.keys().filter(|m| !seen.contains(*m)).collect();
    assert!(stale.is_empty(), "rows for modules that are not there: {stale:?}");
}

#[test]
fn the_table_itself_has_no_way_back() {
    let mut left = table(&document());
    while !left.is_empty() {
        let is_free = |uses: &BTreeSet<String>| !uses.iter().any(|u| left.contains_key(u));
        let free: Vec<String> = left.iter().filter(|(_, uses)| is_free(uses)).map(|(m, _)| m.clone()).collect();
        assert!(!free.is_empty(), "these use each other in a circle: {:?}", left.keys().collect::<Vec<_>>());
        left.retain(|module, _| !free.contains(module));
    }
}

#[test]
fn the_reader_sees_every_kind_of_path() {
    let source = "use crate::model::Event;\nuse crate::{state::{Table, Row}, view};\n// use crate::comment;\n\
                  fn f() -> crate::source::X { my_crate::no() }\n";
    assert_eq!(used(source), ["model", "source", "state", "view"].map(str::to_owned).into());
}
