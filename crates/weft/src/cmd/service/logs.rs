//! What the units of a service print, merged.

use std::collections::BTreeSet;

use weft_api::{UnitLogView, WorkloadView};
use weft_client::{Client, UnitLogs};

use crate::args::LogsArgs;
use crate::exit::Failed;
use crate::output::Output;

/// Writes what a service's units printed, or print; each line with its unit when there are several.
pub async fn service_logs(
    client: &Client,
    service: &WorkloadView,
    args: &LogsArgs,
    output: &Output,
) -> Result<(), Failed> {
    let wanted = UnitLogs {
        follow: args.follow,
        unit: args.task,
        tail: args.tail,
        since: args.since,
        previous: args.previous,
    };
    let mut seen: BTreeSet<u32> = service.units.iter().map(|unit| unit.number).collect();
    let mut lines = client.unit_logs(&service.id, &wanted).await?;
    while let Some(line) = lines.next().await? {
        if output.is_structured() {
            output.stream_value(&line)?;
            continue;
        }
        seen.insert(line.unit);
        let prefix =
            args.prefix || !line.part.is_empty() || (seen.len() > 1 && args.task.is_none());
        let text = written(&line, prefix, args.timestamps);
        if line.stream == "stderr" {
            eprintln!("{text}");
        } else {
            output.line(&text)?;
        }
    }
    Ok(())
}

fn written(line: &UnitLogView, prefix: bool, timestamps: bool) -> String {
    let mut text = String::new();
    if prefix {
        let part = if line.part.is_empty() { "" } else { "/" };
        text.push_str(&format!("[{}{part}{}] ", line.unit, line.part));
    }
    if timestamps {
        text.push_str(&format!("{} ", line.at));
    }
    text.push_str(&line.line);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_it_is_from_when_asked() {
        let line = UnitLogView {
            unit: 3,
            part: "web".to_owned(),
            at: "2026-01-31T12:00:00Z".to_owned(),
            stream: "stdout".to_owned(),
            line: "hello".to_owned(),
        };
        assert_eq!(written(&line, true, false), "[3/web] hello");
        assert_eq!(written(&line, false, true), "2026-01-31T12:00:00Z hello");
    }
}
