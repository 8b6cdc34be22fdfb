//! What an action came to, as one line: the sockets' own timelines have the rest.

use super::state::Tone;
use crate::model::{ActionKind, ActionRecord, ActionResult, Event, EventKind};
use crate::view::text;

/// `None` if there is no action among the events.
pub fn line(events: &[Event]) -> Option<(String, Tone)> {
    let all: Vec<&ActionRecord> = events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::Action(a) => Some(&**a),
            _ => None,
        })
        .collect();
    let first = all.first()?;
    let what = match first.action {
        ActionKind::Keepalive => "keepalive set on",
        ActionKind::UserTimeout => "user timeout set on",
        ActionKind::Close => "closed",
        ActionKind::Undo => "put back on",
    };
    let with = |r: ActionResult| all.iter().filter(move |a| a.result == r);
    let applied = with(ActionResult::Applied).count();
    let unchanged = with(ActionResult::Unchanged).count();
    let failed = with(ActionResult::Failed).count();
    let mut parts = Vec::new();
    if applied > 0 {
        parts.push(format!("{what} {}", text::plural(applied, "socket")));
    }
    if unchanged > 0 {
        parts.push(format!("{unchanged} right already"));
    }
    if failed > 0 {
        let why = with(ActionResult::Failed).find_map(|a| a.error.as_deref()).unwrap_or("no reason given");
        let count = if all.len() == 1 { "failed".to_string() } else { format!("{failed} failed") };
        parts.push(format!("{count}: {why}"));
    }
    if failed == 0
        && let Some(note) = all.iter().find_map(|a| a.note.as_deref())
    {
        parts.push(note.to_string());
    }
    let tone = match (applied + unchanged, failed) {
        (_, 0) => Tone::Done,
        (0, _) => Tone::Error,
        _ => Tone::Note,
    };
    Some((parts.join("; "), tone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Method, Mono};

    fn event(result: ActionResult, error: Option<&str>) -> Event {
        let record = ActionRecord {
            action: ActionKind::Keepalive,
            socket: None,
            pid: None,
            fd: None,
            method: Method::Pidfd,
            before: None,
            after: None,
            result,
            error: error.map(Into::into),
            remote: None,
            note: None,
        };
        Event { at: Mono(0), kind: EventKind::Action(Box::new(record)) }
    }

    #[test]
    fn results_are_counted_and_failures_say_why() {
        use ActionResult::*;
        assert_eq!(line(&[]), None);
        let two = [event(Applied, None), event(Applied, None), event(Unchanged, None)];
        assert_eq!(line(&two), Some(("keepalive set on 2 sockets; 1 right already".into(), Tone::Done)));
        let one = [event(Failed, Some("no permission"))];
        assert_eq!(line(&one), Some(("failed: no permission".into(), Tone::Error)));
        let mixed = [event(Applied, None), event(Failed, Some("gone"))];
        assert_eq!(line(&mixed), Some(("keepalive set on 1 socket; 1 failed: gone".into(), Tone::Note)));
    }
}
