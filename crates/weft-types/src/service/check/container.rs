//! Of containers, their volumes and health checks.

use std::collections::BTreeSet;

use super::{check_count, check_name, check_ports, is_inside, is_plain, refuse};
use crate::FieldError;
use crate::parse::{check_args, check_env};
use crate::service::{ContainerSpec, HealthCheck, HealthProbe, VolumeClass, VolumeSpec};

const MAX_VOLUMES: usize = 64;

impl ContainerSpec {
    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self) -> Result<(), FieldError> {
        check_image("container.image", &self.image)?;
        check_args("container.command", &self.command)?;
        check_args("container.args", &self.args)?;
        check_env("container.env", &self.env)?;
        for (index, from) in self.env_from.iter().enumerate() {
            check_name(format!("container.env_from[{index}].secret"), &from.secret)?;
        }
        if let Some(workdir) = &self.workdir
            && !is_inside(workdir, true)
        {
            return refuse("container.workdir", "not an absolute path without `..`");
        }
        check_ports("container.ports", &self.ports)?;
        check_count("container.volumes", self.volumes.len(), MAX_VOLUMES)?;
        let mut targets = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let at = format!("container.volumes[{index}]");
            volume.check().map_err(|error| error.within(&at))?;
            if !targets.insert(volume.target.trim_end_matches('/')) {
                return refuse(format!("{at}.target"), "two volumes at one place");
            }
        }
        if let Some(class) = &self.runtime_class
            && !["runc", "crun", "runsc", "kata"].contains(&class.as_str())
        {
            return refuse(
                "container.runtime_class",
                format!("{class:?} is not known; use runc, crun, runsc or kata"),
            );
        }
        if self.pids == Some(0) {
            return refuse("container.pids", "zero; leave it out for the default");
        }
        if let Some(signal) = &self.stop_signal
            && !(signal.starts_with("SIG")
                && signal[3..].chars().all(|c| c.is_ascii_alphanumeric()))
        {
            return refuse("container.stop_signal", "not a signal such as SIGTERM");
        }
        match &self.healthcheck {
            Some(check) => check
                .check()
                .map_err(|error| error.within("container.healthcheck")),
            None => Ok(()),
        }
    }
}

fn check_image(path: &str, image: &str) -> Result<(), FieldError> {
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '[' | ']')
    };
    if !is_plain(image) || image.len() > 512 || !image.chars().all(allowed) {
        return refuse(
            path,
            format!("{image:?} is not a reference of an image such as registry:5000/name:tag"),
        );
    }
    Ok(())
}

impl VolumeSpec {
    fn check(&self) -> Result<(), FieldError> {
        if !is_inside(&self.target, true) || self.target.trim_end_matches('/').is_empty() {
            return refuse("target", "not an absolute path below `/`, without `..`");
        }
        match (&self.host, self.class) {
            (Some(host), None) if !is_inside(host, true) => {
                return refuse("host", "not an absolute path without `..`");
            }
            (Some(_), None) | (None, Some(_)) => {}
            _ => return refuse("host", "give either `host` or `class`"),
        }
        if self.host.is_some() && (self.name.is_some() || self.size.is_some()) {
            return refuse(
                "host",
                "a directory of the node has neither `name` nor `size`",
            );
        }
        if let Some(name) = &self.name {
            check_name("name", name)?;
        }
        if let Some(path) = &self.sub_path
            && !is_inside(path, false)
        {
            return refuse("sub_path", "not a relative path without `..`");
        }
        if let Some(fs_type) = &self.fs_type
            && !["ext4", "xfs"].contains(&fs_type.as_str())
        {
            return refuse(
                "fs_type",
                format!("{fs_type:?} is not known; use ext4 or xfs"),
            );
        }
        let remote = matches!(self.class, Some(VolumeClass::Nfs | VolumeClass::CephRbd));
        match &self.source {
            None if remote => refuse("source", "missing; say where the data lies"),
            Some(_) if !remote => refuse("source", "only `nfs` and `ceph-rbd` have it"),
            Some(source) if !is_plain(source) || !source.contains(['/', ':']) => {
                refuse("source", "write `server:/export` or `pool/image`")
            }
            _ => Ok(()),
        }
    }
}

impl HealthCheck {
    fn check(&self) -> Result<(), FieldError> {
        match self.probe() {
            None => refuse("", "give exactly one of `http`, `tcp` and `command`"),
            Some(HealthProbe::Http(http))
                if !http.path.starts_with('/')
                    || http.path.contains(|c: char| c.is_control() || c == ' ') =>
            {
                refuse("http.path", "not a path that begins with `/`")
            }
            Some(HealthProbe::Command(command)) => check_args("command", command),
            Some(_) if self.interval.is_zero() => refuse("interval", "zero"),
            Some(_) if self.timeout.is_zero() => refuse("timeout", "zero"),
            Some(_) if self.retries == 0 => refuse("retries", "zero; give at least 1"),
            Some(_) => Ok(()),
        }
    }
}
