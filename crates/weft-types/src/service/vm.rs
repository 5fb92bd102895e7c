//! Virtual machines.

use core::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BlobHash, Bytes};

/// A virtual machine to run. CPU and memory of the machine are those of `resources`, unless given
/// here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual processors; the reserved CPU, rounded up, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory of the guest; the reserved memory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "512Mi"))]
    pub memory: Option<Bytes>,
    /// The disk it boots from. It is never written: the machine has a copy-on-write disk over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<VmImage>,
    /// A Linux kernel to boot directly, without the firmware's boot loader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<VmImage>,
    /// The initial RAM disk of `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<VmImage>,
    /// The command line of `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Size of the root disk; the image's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "8Gi"))]
    pub root_size: Option<Bytes>,
    /// Storage pool of the root disk; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_pool: Option<String>,
    /// Further disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network cards; one in the `user` network when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkSpec>,
    /// What cloud-init finds in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// Who may log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// How long until it must have reported an address, or, without a way to, run steadily.
    #[serde(
        default = "VmSpec::default_boot_timeout",
        with = "crate::serde_duration"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "5m"))]
    pub boot_timeout: Duration,
}

impl VmSpec {
    fn default_boot_timeout() -> Duration {
        Duration::from_secs(300)
    }
}

/// A file that a machine boots from: by `url` with its `sha256`, or an artifact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmImage {
    /// `https://…` or `http://…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// SHA-256 of the file, 64 hex digits; needed with `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The file as an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub blob: Option<BlobHash>,
    /// What the file is; kernels and RAM disks are `raw`.
    #[serde(default)]
    pub format: ImageFormat,
}

/// The format of a disk image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's.
    #[default]
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

/// A further disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Its name within the machine; also its serial number in the guest.
    pub name: String,
    /// Its size.
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "4Gi"))]
    pub size: Bytes,
    /// Storage pool it lies in; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether its data goes with the workload.
    #[serde(default)]
    pub retain: super::Retain,
}

/// How a network card is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmNetworkMode {
    /// Behind QEMU's own address translation: outgoing only, beside published ports.
    #[default]
    User,
    /// On a bridge of the node.
    Bridge,
}

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// How it is connected.
    pub mode: VmNetworkMode,
    /// Name of the bridge; needed for `bridge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Its address and prefix length, as in `192.0.2.10/24`; by DHCP when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The gateway of a static address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub gateway: Option<IpAddr>,
    /// Name servers of a static address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub dns: Vec<IpAddr>,
    /// Its hardware address; made from the unit's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Ports of the guest that are reachable on the node, in the `user` network only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<Object>))]
    pub ports: Vec<super::PortSpec>,
}

/// Files of cloud-init's NoCloud data source, as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CloudInit {
    /// `user-data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// `meta-data`; an instance id and a host name are made when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<String>,
    /// `network-config`; made from `networks` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
    /// `vendor-data`; with `login` it is made, and must be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor_data: Option<String>,
}

/// Who may log in to a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Name of the user, who may use `sudo`.
    pub user: String,
    /// Public SSH keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Secret with `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<String>,
}
