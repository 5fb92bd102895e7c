//! `weft context` and `weft config`.

use serde::Serialize;
use weft_api::AdminFile;

use crate::args::{ConfigCommand, ContextCommand, Global};
use crate::context::{Source, choose};
use crate::exit::Failed;
use crate::output::Output;

/// A context as it is listed; its credentials stay in the file.
#[derive(Serialize)]
struct ContextView {
    name: String,
    server: String,
    current: bool,
}

/// Runs a `context` command.
pub fn context(global: &Global, command: ContextCommand, output: &Output) -> Result<(), Failed> {
    let flag = global.config.as_deref();
    let mut config = crate::config::load(flag).or_else(|failed| match &command {
        // The first context may be what makes the file.
        ContextCommand::Add { .. } if flag.is_some_and(|path| !path.exists()) => {
            Ok(Default::default())
        }
        _ => Err(failed),
    })?;
    match command {
        ContextCommand::Ls => {
            let contexts: Vec<ContextView> = config
                .contexts
                .iter()
                .map(|(name, admin)| ContextView {
                    name: name.clone(),
                    server: admin.server.clone(),
                    current: config.current.as_ref() == Some(name),
                })
                .collect();
            let row = |context: &ContextView| {
                vec![
                    if context.current { "*" } else { "" }.to_owned(),
                    context.name.clone(),
                    context.server.clone(),
                ]
            };
            output.list(&contexts, &["", "NAME", "SERVER"], row, |context| {
                context.name.clone()
            })
        }
        ContextCommand::Add { name, admin_file } => {
            let text = std::fs::read_to_string(&admin_file)
                .map_err(|error| Failed::usage(format!("{}: {error}", admin_file.display())))?;
            let admin: AdminFile = weft_types::parse_json(text.as_bytes())?;
            config.contexts.insert(name.clone(), admin);
            config.current.get_or_insert_with(|| name.clone());
            crate::config::save(flag, &config)?;
            output.note(&format!("added {name}; next: weft context use {name}"));
            Ok(())
        }
        ContextCommand::Use { name } => {
            known(&config.contexts, &name)?;
            config.current = Some(name);
            crate::config::save(flag, &config)
        }
        ContextCommand::Rm { name } => {
            known(&config.contexts, &name)?;
            config.contexts.remove(&name);
            if config.current.as_ref() == Some(&name) {
                config.current = None;
            }
            crate::config::save(flag, &config)
        }
    }
}

fn known(
    contexts: &std::collections::BTreeMap<String, AdminFile>,
    name: &str,
) -> Result<(), Failed> {
    if contexts.contains_key(name) {
        return Ok(());
    }
    Err(Failed::usage(format!("there is no context {name:?}"))
        .with_next("`weft context ls` lists them"))
}

/// A setting in force.
#[derive(Serialize)]
struct Setting {
    name: &'static str,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

/// Runs a `config` command.
pub fn config(global: &Global, command: ConfigCommand, output: &Output) -> Result<(), Failed> {
    let ConfigCommand::Show { origin } = command;
    let config = crate::config::load(global.config.as_deref())?;
    let path = crate::config::path(global.config.as_deref());
    let chosen = choose(global, &config)?;
    let cluster = match chosen.as_ref().map(|chosen| &chosen.source) {
        None => "none: `weft run` starts a private one".to_owned(),
        Some(Source::Address) => global.server.clone().unwrap_or_default(),
        Some(Source::File(path)) => path.display().to_string(),
        Some(Source::Context(admin)) => admin.server.clone(),
    };
    let default = || "default".to_owned();
    let from_flag = |given: bool, text: &str| if given { text.to_owned() } else { default() };
    let settings = [
        (
            "config",
            path.display().to_string(),
            from_flag(global.config.is_some(), "--config or WEFT_CONFIG"),
        ),
        (
            "cluster",
            cluster,
            chosen.map(|chosen| chosen.origin).unwrap_or_else(default),
        ),
        (
            "namespace",
            global.namespace.clone().unwrap_or_default().to_string(),
            from_flag(global.namespace.is_some(), "--namespace or WEFT_NAMESPACE"),
        ),
        (
            "data_dir",
            crate::config::default_data_dir().display().to_string(),
            default(),
        ),
    ]
    .map(|(name, value, from)| Setting {
        name,
        value,
        origin: origin.then_some(from),
    });
    let mut columns = vec!["NAME", "VALUE"];
    if origin {
        columns.push("ORIGIN");
    }
    let row = |setting: &Setting| {
        let mut cells = vec![setting.name.to_owned(), setting.value.clone()];
        cells.extend(setting.origin.clone());
        cells
    };
    output.list(&settings, &columns, row, |setting| setting.name.to_owned())
}
