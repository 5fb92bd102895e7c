//! `weft token`.

use weft_api::{TokenRequest, TokenView};
use weft_client::Client;
use weft_types::format_duration;

use crate::args::TokenCommand;
use crate::exit::Failed;
use crate::output::Output;

/// Runs a `token` command.
pub async fn token(client: &Client, command: TokenCommand, output: &Output) -> Result<(), Failed> {
    match command {
        TokenCommand::Create { ttl, uses } => {
            let request = TokenRequest {
                ttl: Some(format_duration(ttl)),
                uses: Some(uses),
            };
            let created = client.create_token(&request).await?;
            output.note(&format!(
                "good until {}, for {} machine(s); on each:",
                created.expires_at, created.uses
            ));
            output.note(&format!("  {}", created.command));
            if output.is_structured() {
                output.value(&created)
            } else {
                output.line(&created.token)
            }
        }
        TokenCommand::Ls => {
            let row = |token: &TokenView| {
                vec![
                    token.id.clone(),
                    token.uses_left.to_string(),
                    token.created_at.clone(),
                    token.expires_at.clone(),
                ]
            };
            output.list(
                &client.tokens().await?,
                &["ID", "USES LEFT", "CREATED", "EXPIRES"],
                row,
                |token| token.id.clone(),
            )
        }
        TokenCommand::Rm(args) => {
            client.remove_token(&args.id).await?;
            output.note(&format!("removed {}", args.id));
            Ok(())
        }
    }
}
