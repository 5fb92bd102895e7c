//! What QEMU says, parsed.

use serde_json::Value;

/// A line from QEMU.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Message {
    /// The first line of a connection.
    Greeting,
    /// The answer to the command of this number.
    Answer(u64, Result<Value, String>),
    /// Something happened.
    Event(String),
}

impl Message {
    /// Reads one line; `None` for what is neither, which is skipped.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(line).ok()?;
        let fields = value.as_object_mut()?;
        if fields.contains_key("QMP") {
            return Some(Self::Greeting);
        }
        if let Some(event) = fields.get("event").and_then(Value::as_str) {
            return Some(Self::Event(event.to_owned()));
        }
        let id = fields.get("id").and_then(Value::as_u64)?;
        if let Some(returned) = fields.remove("return") {
            return Some(Self::Answer(id, Ok(returned)));
        }
        let error = fields.get("error")?;
        let said = error.get("desc").and_then(Value::as_str);
        Some(Self::Answer(
            id,
            Err(said.unwrap_or("no reason").to_owned()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn greetings_answers_errors_and_events_are_told_apart() {
        let parse = |text: &str| Message::parse(text.as_bytes());
        assert_eq!(
            parse(r#"{"QMP": {"version": {}, "capabilities": []}}"#),
            Some(Message::Greeting)
        );
        assert_eq!(
            parse(r#"{"return": {}, "id": 7}"#),
            Some(Message::Answer(7, Ok(serde_json::json!({}))))
        );
        assert_eq!(
            parse(r#"{"id": 8, "error": {"class": "GenericError", "desc": "no"}}"#),
            Some(Message::Answer(8, Err("no".to_owned())))
        );
        assert_eq!(
            parse(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#),
            Some(Message::Event("STOP".to_owned()))
        );
        assert_eq!(parse(r#"{"return": {}}"#), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(line: Vec<u8>) {
            let _ = Message::parse(&line);
        }

        #[test]
        fn json_of_any_shape_never_panics(
            key in "(QMP|event|id|return|error|desc)",
            value in "(\\{\\}|\\[\\]|null|-1|1e400|\"x\"|\\{\"desc\":\\[\\]\\}|18446744073709551616)",
        ) {
            let _ = Message::parse(format!("{{\"id\":1,\"{key}\":{value}}}").as_bytes());
        }
    }
}
