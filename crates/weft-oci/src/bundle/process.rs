//! What is run in a container, and as whom.

use serde_json::{Value, json};
use weft_types::ContainerSpec;

use super::{Bundle, capabilities};
use crate::Error;
use crate::image::RunConfig;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM: i32 = 15;

pub(super) fn process(bundle: &Bundle<'_>) -> Result<Value, Error> {
    let run = &bundle.image.config;
    let capabilities: Vec<String> = match bundle.spec.privileged {
        true => capabilities::all(),
        false => capabilities::DEFAULT.map(str::to_owned).to_vec(),
    };
    Ok(json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args(bundle.spec, run)?,
        "env": env(bundle),
        "cwd": cwd(bundle.spec, run)?,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": !bundle.spec.privileged,
        "oomScoreAdj": 0,
    }))
}

/// As Docker combines them: another program takes no arguments of the image's.
fn args(spec: &ContainerSpec, image: &RunConfig) -> Result<Vec<String>, Error> {
    let (program, own) = match spec.command.as_slice() {
        [] => (&image.entrypoint, &image.cmd),
        command => (&command.to_vec(), &Vec::new()),
    };
    let rest = if spec.args.is_empty() {
        own
    } else {
        &spec.args
    };
    let args: Vec<String> = program.iter().chain(rest).cloned().collect();
    if args.is_empty() {
        return Err(Error::Spec(
            "container.command: the image names no program; name one".into(),
        ));
    }
    Ok(args)
}

fn env(bundle: &Bundle<'_>) -> Vec<String> {
    let mut names: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    let mut set = |name: &str, value: &str| match names.iter_mut().find(|(n, _)| n == name) {
        Some(known) => value.clone_into(&mut known.1),
        None => names.push((name.to_owned(), value.to_owned())),
    };
    set("HOSTNAME", bundle.hostname);
    for pair in &bundle.image.config.env {
        if let Some((name, value)) = pair.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &bundle.unit.secrets.env {
        set(name, value);
    }
    for (name, value) in &bundle.spec.env {
        set(name, value);
    }
    names
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn cwd(spec: &ContainerSpec, image: &RunConfig) -> Result<String, Error> {
    let cwd = match &spec.workdir {
        Some(workdir) => workdir.as_str(),
        None if image.working_dir.is_empty() => "/",
        None => &image.working_dir,
    };
    if !cwd.starts_with('/') {
        return Err(Error::Corrupt(format!(
            "the image's working directory {cwd:?} is not an absolute path"
        )));
    }
    Ok(cwd.to_owned())
}

/// The number of the signal that asks a container to end.
pub(crate) fn stop_signal(spec: &ContainerSpec, image: &RunConfig) -> Result<i32, Error> {
    let text = match &spec.stop_signal {
        Some(wanted) => wanted.as_str(),
        None => image.stop_signal.as_str(),
    };
    if text.is_empty() {
        return Ok(SIGTERM);
    }
    signal_number(text)
        .ok_or_else(|| Error::Spec(format!("stop_signal: {text:?} is not the name of a signal")))
}

fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .map(|n| 34 + n)
            .filter(|n| *n <= 64);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-") {
        return offset
            .parse::<i32>()
            .ok()
            .map(|n| 64 - n)
            .filter(|n| *n >= 34);
    }
    let known = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ABRT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("WINCH", libc::SIGWINCH),
        ("PWR", libc::SIGPWR),
    ];
    known
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_and_args_take_the_place_of_the_images_as_with_docker() {
        let image = RunConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve"),
            ..RunConfig::default()
        };
        let args = |command: &str, rest: &str| {
            let spec = ContainerSpec {
                command: words(command),
                args: words(rest),
                ..ContainerSpec::default()
            };
            args(&spec, &image).unwrap().join(" ")
        };
        assert_eq!(args("", ""), "/entry -x serve");
        assert_eq!(args("", "other"), "/entry -x other");
        assert_eq!(args("sh", ""), "sh");
        assert_eq!(args("sh", "-c x"), "sh -c x");
        assert!(super::args(&ContainerSpec::default(), &RunConfig::default()).is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("SIGRTMIN+3", 37)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for bad in ["", "SIGNOTHING", "0", "65", "SIGRTMIN+99", "-1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
