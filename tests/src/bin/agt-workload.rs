//! A process that obeys lines on its stdin; see `agent_tests::workload::process`.

fn main() -> std::process::ExitCode {
    agent_tests::workload::process::main()
}
