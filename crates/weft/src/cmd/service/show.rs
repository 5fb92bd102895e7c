//! A service for people.

use weft_api::{UnitView, WorkloadView};

use super::age;
use crate::exit::Failed;
use crate::output::Output;

/// One service with its units.
pub fn show(view: &WorkloadView, output: &Output) -> Result<(), Failed> {
    let replicas = view.replicas;
    let rollout = match &view.rollout.detail {
        Some(detail) => format!("{}: {detail}", view.rollout.state.as_str()),
        None => view.rollout.state.as_str().to_owned(),
    };
    let fields = [
        ("name", view.name.clone()),
        ("id", view.id.clone()),
        ("namespace", view.namespace.clone()),
        ("runtime", view.runtime.clone()),
        ("state", view.state.to_string()),
        ("why", why(view)),
        (
            "replicas",
            format!(
                "{} ready, {} running, {} of {} wanted",
                replicas.ready, replicas.running, replicas.existing, replicas.wanted
            ),
        ),
        ("revision", format!("{} ({rollout})", view.revision)),
        ("ports", view.ports.join(", ")),
        ("next try", next_try(view).unwrap_or_default().to_owned()),
        ("created", view.created_at.clone()),
        ("changed", view.changed_at.clone()),
    ];
    output.one(view, &fields, &view.name)?;
    if output.is_structured() || output.format == crate::args::Format::Name {
        return Ok(());
    }
    if !view.units.is_empty() {
        output.line("")?;
        let columns = [
            "UNIT", "NODE", "ADDRESS", "REVISION", "STATE", "READY", "RESTARTS", "CPU", "MEMORY",
            "SINCE", "WHY",
        ];
        output.list(&view.units, &columns, unit_row, |unit| unit.id.clone())?;
    }
    for unit in view.units.iter().filter(|unit| !unit.parts.is_empty()) {
        let source = unit.source.as_ref().map(|source| format!(", {source}"));
        let source = source.unwrap_or_default();
        output.line(&format!("\nparts of unit {}{source}:", unit.number))?;
        let width = unit.parts.keys().map(String::len).max().unwrap_or(0);
        for (part, state) in &unit.parts {
            output.line(&format!("  {part:width$}  {state}"))?;
        }
    }
    for unit in view.units.iter().filter(|unit| !unit.evidence.is_empty()) {
        output.line(&format!("\nlast lines of unit {}:", unit.number))?;
        for line in &unit.evidence {
            output.line(&format!("  {line}"))?;
        }
    }
    if let Some(next) = view.why.as_ref().and_then(|why| why.next.as_ref()) {
        output.note(&format!("next: {next}"));
    }
    Ok(())
}

/// When a unit is placed anew or, sooner, one is started again where it is.
fn next_try(view: &WorkloadView) -> Option<&str> {
    let units = view.units.iter().map(|unit| &unit.next_try_at);
    let all = std::iter::once(&view.next_try_at).chain(units);
    // Times of RFC 3339 in UTC are in order as text.
    all.filter_map(|at| at.as_deref()).min()
}

fn why(view: &WorkloadView) -> String {
    let Some(why) = &view.why else {
        return String::new();
    };
    let step = view.step.as_ref().map(|step| format!(" at {step}"));
    format!("{}{}: {}", why.reason, step.unwrap_or_default(), why.detail)
}

fn unit_row(unit: &UnitView) -> Vec<String> {
    let load = unit.load.unwrap_or_default();
    let known = unit.load.is_some();
    let said = match (&unit.why, &unit.stopping, &unit.doing) {
        (Some(why), ..) => {
            let step = unit.step.as_ref().map(|step| format!("{step}: "));
            // What follows the first line, such as a console's end, is told above.
            let first = why.detail.lines().next().unwrap_or_default();
            format!("{}: {}{first}", why.reason, step.unwrap_or_default())
        }
        (None, Some(stopping), _) => format!("stopping: {stopping}"),
        (None, None, Some(doing)) => doing.clone(),
        (None, None, None) => String::new(),
    };
    vec![
        unit.number.to_string(),
        unit.node.clone(),
        unit.address.clone().unwrap_or_default(),
        unit.revision.to_string(),
        unit.state.to_string(),
        if unit.ready { "yes" } else { "no" }.to_owned(),
        unit.restarts.to_string(),
        if known {
            format!("{}m", load.cpu_millicores)
        } else {
            String::new()
        },
        if known {
            format!("{}Mi", load.memory_bytes >> 20)
        } else {
            String::new()
        },
        age(&unit.since),
        said,
    ]
}

/// A service as a line of `ps`.
pub fn row(view: &WorkloadView) -> Vec<String> {
    vec![
        view.id.clone(),
        view.name.clone(),
        view.runtime.clone(),
        view.state.to_string(),
        format!("{}/{}", view.replicas.ready, view.replicas.wanted),
        view.failures.to_string(),
        view.created_at.clone(),
        view.why
            .as_ref()
            .map(|why| why.reason.to_string())
            .unwrap_or_default(),
    ]
}
