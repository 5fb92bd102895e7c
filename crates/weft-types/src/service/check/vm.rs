//! Of virtual machines.

use std::collections::BTreeSet;

use super::{MAX_TEXT_BYTES, check_count, check_name, check_ports, is_name, is_plain, refuse};
use crate::FieldError;
use crate::service::{NetworkSpec, VmImage, VmNetworkMode, VmSpec};

const MAX_DISKS: usize = 16;
const MAX_NETWORKS: usize = 8;

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
