//! What types alone do not say of a service.

mod compose;
mod container;
mod vm;

use std::collections::BTreeSet;
use std::time::Duration;

use super::{MAX_REPLICAS, PortSpec};
use crate::{FieldError, OnExceed, Run, RuntimeKind, Workload};

/// The largest inline Compose file, and each file of cloud-init, in bytes.
const MAX_TEXT_BYTES: usize = 512 << 10;
const MAX_PORTS: usize = 256;
/// The longest time that a unit may be given to end.
const MAX_STOP_GRACE: Duration = Duration::from_secs(3_600);
/// The most services that one may be beside, or apart from.
const MAX_COMPANY: usize = 16;

/// The characters of a reference of an image, a path or a URL that reach a command line or a file.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.contains(|c: char| c.is_control())
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&text.len())
        && text.chars().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether a path stays where it is put: absolute or relative as wanted, without `..`.
fn is_inside(path: &str, absolute: bool) -> bool {
    path.starts_with('/') == absolute
        && !path.is_empty()
        && path.len() <= 4_096
        && !path.contains(|c: char| c.is_control())
        && path.split('/').all(|part| part != "..")
}

fn refuse<T>(path: impl Into<String>, message: impl Into<String>) -> Result<T, FieldError> {
    Err(FieldError::new(path, message))
}

fn check_name(path: impl Into<String>, name: &str) -> Result<(), FieldError> {
    if is_name(name) {
        return Ok(());
    }
    refuse(
        path,
        format!("{name:?} is not a name: 1 to 63 letters, digits, `-`, `_` and `.`"),
    )
}

fn check_count(path: &str, count: usize, max: usize) -> Result<(), FieldError> {
    if count > max {
        return refuse(path, format!("{count} entries, more than {max}"));
    }
    Ok(())
}

impl Workload {
    /// Checks the parts that only services have, and that a service has no others.
    pub(crate) fn check_kept_running(&self) -> Result<(), FieldError> {
        if self.run == Run::Job {
            return self.check_no_service_fields();
        }
        let given = [
            ("inputs", self.inputs.is_some()),
            ("tasks", !self.tasks.is_empty()),
            ("after", !self.after.is_empty()),
            ("deadline", self.deadline.is_some()),
            ("speculate", self.speculate),
            ("timeout", self.timeout.is_some()),
        ];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            return refuse(*field, "only jobs have it; leave it out of a service");
        }
        if self.name.is_none() {
            return refuse("name", "missing; a service is known by its name");
        }
        if self.stop_grace.is_some_and(|grace| grace > MAX_STOP_GRACE) {
            return refuse("stop_grace", "more than an hour; give `1h` at most");
        }
        self.check_company()?;
        self.check_budget()?;
        self.check_replicas()?;
        match self.runtime {
            RuntimeKind::Container => match &self.container {
                Some(container) => container.check(),
                None => refuse("container", "missing; write `container: {image: IMAGE}`"),
            },
            RuntimeKind::Compose => match &self.compose {
                Some(compose) => compose.check(),
                None => refuse(
                    "compose",
                    "missing; write `compose: {inline: TEXT}` or `compose: {git: {url: URL}}`",
                ),
            },
            RuntimeKind::Vm => match &self.vm {
                Some(vm) => vm.check(),
                None => refuse(
                    "vm",
                    "missing; write `vm: {image: {url: URL, sha256: HASH}}`",
                ),
            },
            other => refuse(
                "runtime",
                format!("{other} is not supported for services; use container, compose or vm"),
            ),
        }
    }

    fn check_no_service_fields(&self) -> Result<(), FieldError> {
        let given = [
            ("replicas", self.replicas.is_some()),
            ("scaling", self.scaling.is_some()),
            ("update", self.update.is_some()),
            ("stop_grace", self.stop_grace.is_some()),
            ("placement.with", !self.placement.with.is_empty()),
            ("placement.apart", !self.placement.apart.is_empty()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((field, _)) => refuse(*field, "only services have it; write `run: service`"),
            None => Ok(()),
        }
    }

    /// What of a budget is kept: what an hour costs, looked at when the service is applied.
    fn check_budget(&self) -> Result<(), FieldError> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        if budget.total.is_some() {
            let message = "a service runs without an end; give `per_hour`";
            return refuse("budget.total", message);
        }
        if budget.per_hour.is_none() {
            return refuse("budget.per_hour", "missing; write for example `$0.50`");
        }
        if budget.on_exceed != OnExceed::Block {
            let message = "not supported yet; write `on_exceed: block`, which refuses an apply \
                that would cost more";
            return refuse("budget.on_exceed", message);
        }
        Ok(())
    }

    /// Which services are to be beside it, and which are not.
    fn check_company(&self) -> Result<(), FieldError> {
        let placement = &self.placement;
        for (field, names) in [("with", &placement.with), ("apart", &placement.apart)] {
            if names.len() > MAX_COMPANY {
                let message = format!("more than {MAX_COMPANY} services");
                return refuse(format!("placement.{field}"), message);
            }
        }
        for (index, name) in placement.with.iter().enumerate() {
            let field = format!("placement.with[{index}]");
            if Some(name) == self.name.as_ref() {
                return refuse(field, "its own name; its first unit would have no place");
            }
            if placement.apart.contains(name) {
                return refuse(field, format!("{name} is in `placement.apart` as well"));
            }
        }
        Ok(())
    }

    fn check_replicas(&self) -> Result<(), FieldError> {
        let replicas = self.replicas.unwrap_or_default();
        if replicas.max > MAX_REPLICAS || replicas.max == 0 {
            return refuse(
                "replicas.max",
                format!("{} is not between 1 and {MAX_REPLICAS}", replicas.max),
            );
        }
        if replicas.min > replicas.max {
            return refuse("replicas.min", "greater than `replicas.max`");
        }
        if !(replicas.min..=replicas.max).contains(&replicas.target) {
            return refuse(
                "replicas.target",
                format!(
                    "{} is not between `min` {} and `max` {}",
                    replicas.target, replicas.min, replicas.max
                ),
            );
        }
        if self.exclusive && replicas.max > 1 && self.replicas.is_some() {
            return refuse(
                "replicas.max",
                "an exclusive service has one replica; write `replicas: {max: 1}`",
            );
        }
        if let Some(scaling) = &self.scaling {
            if scaling.cpu.is_none()
                && scaling.memory.is_none()
                && scaling.requests_per_second.is_none()
            {
                return refuse(
                    "scaling",
                    "no figure; give `cpu`, `memory` or `requests_per_second`",
                );
            }
            if scaling.requests_per_second == Some(0) {
                return refuse("scaling.requests_per_second", "zero; give at least 1");
            }
        }
        if let Some(update) = &self.update
            && update.max_surge == 0
            && update.max_unavailable == 0
        {
            return refuse(
                "update.max_surge",
                "zero, and so is `max_unavailable`: an update could never begin",
            );
        }
        Ok(())
    }
}

fn check_ports(path: &str, ports: &[PortSpec]) -> Result<(), FieldError> {
    check_count(path, ports.len(), MAX_PORTS)?;
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        if port.port == 0 || port.target == 0 {
            return refuse(format!("{path}[{index}]"), "zero is not a port");
        }
        if !seen.insert(port.port) {
            return refuse(format!("{path}[{index}].port"), "given twice");
        }
    }
    Ok(())
}
