//! `weft events`.

use weft_api::EventView;
use weft_client::Client;

use crate::args::EventsArgs;
use crate::exit::Failed;
use crate::output::Output;

/// Writes what happened, and with `-f` what happens.
pub async fn events(client: &Client, args: &EventsArgs, output: &Output) -> Result<(), Failed> {
    let mut lines = client.events(args.since, args.follow).await?;
    while let Some(event) = lines.next().await? {
        if output.is_structured() {
            output.stream_value(&event)?;
        } else {
            output.line(&line(&event))?;
        }
    }
    Ok(())
}

fn line(event: &EventView) -> String {
    let text = |field: &str| {
        event
            .data
            .get(field)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = event.kind.strip_prefix("weft.").unwrap_or(&event.kind);
    let line = format!(
        "{:>6}  {}  {:<18}  {}  {}  {}",
        event.seq,
        event.time,
        kind,
        event.subject,
        text("reason"),
        text("detail")
    );
    line.trim_end().to_owned()
}
