//! What types alone do not say of a service.

use std::collections::BTreeSet;

use crate::parse::{check_args, check_env};
use crate::{FieldError, Run, RuntimeKind, Workload};

use super::{
    ComposeSource, ComposeSpec, ContainerSpec, GitSource, HealthCheck, HealthProbe, MAX_REPLICAS,
    NetworkSpec, PortSpec, VmImage, VmNetworkMode, VmSpec, VolumeClass, VolumeSpec,
};

/// The largest inline Compose file, and each file of cloud-init, in bytes.
const MAX_TEXT_BYTES: usize = 512 << 10;
const MAX_PORTS: usize = 256;
const MAX_VOLUMES: usize = 64;
const MAX_DISKS: usize = 16;
const MAX_NETWORKS: usize = 8;
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
        self.check_company()?;
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
            ("placement.with", !self.placement.with.is_empty()),
            ("placement.apart", !self.placement.apart.is_empty()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((field, _)) => refuse(*field, "only services have it; write `run: service`"),
            None => Ok(()),
        }
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

impl ComposeSpec {
    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self) -> Result<(), FieldError> {
        check_env("compose.env", &self.env)?;
        for (index, from) in self.env_from.iter().enumerate() {
            check_name(format!("compose.env_from[{index}].secret"), &from.secret)?;
        }
        for (index, profile) in self.profiles.iter().enumerate() {
            check_name(format!("compose.profiles[{index}]"), profile)?;
        }
        match self.source() {
            None => refuse("compose", "give either `inline` or `git`"),
            Some(ComposeSource::Inline(text)) if text.len() > MAX_TEXT_BYTES => refuse(
                "compose.inline",
                format!("larger than {MAX_TEXT_BYTES} bytes; keep it in a Git repository"),
            ),
            Some(ComposeSource::Inline(_)) => Ok(()),
            Some(ComposeSource::Git(git)) => git.check(),
        }
    }
}

impl GitSource {
    fn check(&self) -> Result<(), FieldError> {
        // `ext::` and `file://` run commands and read the node; a leading dash is an option.
        let known = ["https://", "http://", "ssh://"];
        if !is_plain(&self.url) || !known.iter().any(|scheme| self.url.starts_with(scheme)) {
            return refuse(
                "compose.git.url",
                format!(
                    "{:?} does not begin with https://, http:// or ssh://",
                    self.url
                ),
            );
        }
        let host = self.url.split("//").nth(1).unwrap_or_default();
        if host.is_empty() || host.starts_with(['-', '/']) {
            return refuse("compose.git.url", "has no host");
        }
        if let Some(reference) = &self.reference
            && (!is_plain(reference)
                || reference.contains(['~', '^', ':', ' ', '?', '*', '['])
                || reference.contains(".."))
        {
            return refuse(
                "compose.git.ref",
                format!("{reference:?} is not a branch, tag or commit"),
            );
        }
        if let Some(path) = &self.path
            && (!is_inside(path, false) || path.starts_with('-'))
        {
            return refuse("compose.git.path", "not a relative path without `..`");
        }
        for (field, secret) in [
            ("credentials", &self.credentials),
            ("webhook", &self.webhook),
        ] {
            if let Some(secret) = secret {
                check_name(format!("compose.git.{field}"), secret)?;
            }
        }
        Ok(())
    }
}

impl VmSpec {
    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.image.is_none() && self.kernel.is_none() {
            return refuse(
                "vm.image",
                "missing; give `image`, or `kernel` to boot one directly",
            );
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.cmdline.is_some()) {
            return refuse("vm.kernel", "missing; `initrd` and `cmdline` belong to it");
        }
        let files = [
            ("image", &self.image),
            ("kernel", &self.kernel),
            ("initrd", &self.initrd),
        ];
        for (field, file) in files {
            if let Some(file) = file {
                file.check()
                    .map_err(|error| error.within(&format!("vm.{field}")))?;
            }
        }
        if self.vcpus == Some(0) || self.vcpus.is_some_and(|vcpus| vcpus > 512) {
            return refuse("vm.vcpus", "not between 1 and 512");
        }
        if let Some(pool) = &self.root_pool {
            check_name("vm.root_pool", pool)?;
        }
        check_count("vm.disks", self.disks.len(), MAX_DISKS)?;
        let mut names = BTreeSet::new();
        for (index, disk) in self.disks.iter().enumerate() {
            check_name(format!("vm.disks[{index}].name"), &disk.name)?;
            if let Some(pool) = &disk.pool {
                check_name(format!("vm.disks[{index}].pool"), pool)?;
            }
            // The guest sees the name as a serial number, which virtio cuts at 20 bytes.
            if disk.name.len() > 20 || !names.insert(&disk.name) {
                return refuse(
                    format!("vm.disks[{index}].name"),
                    "given twice, or over 20 characters",
                );
            }
            if disk.size.0 < 1 << 20 {
                return refuse(format!("vm.disks[{index}].size"), "less than 1Mi");
            }
        }
        check_count("vm.networks", self.networks.len(), MAX_NETWORKS)?;
        for (index, network) in self.networks.iter().enumerate() {
            network
                .check()
                .map_err(|error| error.within(&format!("vm.networks[{index}]")))?;
        }
        self.check_seed()
    }

    fn check_seed(&self) -> Result<(), FieldError> {
        if let Some(seed) = &self.cloud_init {
            let files = [
                ("user_data", &seed.user_data),
                ("meta_data", &seed.meta_data),
                ("network_config", &seed.network_config),
                ("vendor_data", &seed.vendor_data),
            ];
            for (field, text) in files {
                if text
                    .as_ref()
                    .is_some_and(|text| text.len() > MAX_TEXT_BYTES)
                {
                    let message = format!("larger than {MAX_TEXT_BYTES} bytes");
                    return refuse(format!("vm.cloud_init.{field}"), message);
                }
            }
            if seed.vendor_data.is_some() && self.login.is_some() {
                return refuse(
                    "vm.cloud_init.vendor_data",
                    "`login` is written there; give one of them",
                );
            }
        }
        let Some(login) = &self.login else {
            return Ok(());
        };
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if !login.user.starts_with(|c: char| c.is_ascii_lowercase())
            || login.user.len() > 32
            || !login.user.chars().all(allowed)
        {
            return refuse(
                "vm.login.user",
                format!("{:?} is not a user name", login.user),
            );
        }
        if login.ssh_keys.is_empty() && login.password_secret.is_none() {
            return refuse(
                "vm.login",
                "nobody could log in; give `ssh_keys` or `password_secret`",
            );
        }
        match login.ssh_keys.iter().position(|key| !is_plain(key)) {
            Some(index) => refuse(
                format!("vm.login.ssh_keys[{index}]"),
                "not a public key on one line",
            ),
            None => Ok(()),
        }
    }
}

impl VmImage {
    fn check(&self) -> Result<(), FieldError> {
        match (&self.url, &self.sha256, self.blob) {
            (None, None, Some(_)) => Ok(()),
            (Some(url), Some(hash), None) => {
                if !is_plain(url) || !(url.starts_with("https://") || url.starts_with("http://")) {
                    return refuse("url", "does not begin with https:// or http://");
                }
                if hash.len() != 64 || !hash.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
                    return refuse("sha256", "not 64 lower-case hex digits");
                }
                Ok(())
            }
            (Some(_), None, None) => refuse("sha256", "missing; an image by URL needs its hash"),
            _ => refuse("url", "give either `url` with `sha256`, or `blob`"),
        }
    }
}

impl NetworkSpec {
    fn check(&self) -> Result<(), FieldError> {
        check_ports("ports", &self.ports)?;
        match (self.mode, &self.bridge) {
            (VmNetworkMode::Bridge, None) => {
                return refuse("bridge", "missing; name a bridge of the node");
            }
            (VmNetworkMode::User, Some(_)) => {
                return refuse("bridge", "only mode `bridge` has one");
            }
            // The kernel's limit for the name of an interface.
            (VmNetworkMode::Bridge, Some(bridge)) if !is_name(bridge) || bridge.len() > 15 => {
                return refuse("bridge", "not the name of an interface");
            }
            _ => {}
        }
        if self.mode == VmNetworkMode::Bridge && !self.ports.is_empty() {
            return refuse(
                "ports",
                "only mode `user` has them; a bridged machine has its own address",
            );
        }
        if let Some(address) = &self.address {
            let parts = address.split_once('/');
            let valid = parts.is_some_and(|(ip, prefix)| {
                let bits = match ip.parse() {
                    Ok(core::net::IpAddr::V4(_)) => 32,
                    Ok(core::net::IpAddr::V6(_)) => 128,
                    Err(_) => return false,
                };
                prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits)
            });
            if !valid {
                return refuse(
                    "address",
                    "write an address with its prefix length, as in 192.0.2.10/24",
                );
            }
        }
        if let Some(mac) = &self.mac {
            let parts: Vec<_> = mac.split(':').collect();
            let valid =
                |part: &&str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
            if parts.len() != 6 || !parts.iter().all(valid) {
                return refuse("mac", "write it as in 52:54:00:12:34:56");
            }
        }
        Ok(())
    }
}
