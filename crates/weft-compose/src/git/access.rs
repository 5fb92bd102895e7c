//! How a repository is reached: at which address, and with which credentials.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use tokio::process::Command;
use weft_unit::Secrets;

use super::url::{Scheme, Url};
use crate::scratch::write_private;

/// Asked by `git` for credentials; they are in its environment, so that they are neither on a command
/// line nor in a file.
const HELPER: &str = "credential.helper=!f() { test \"$1\" = get && \
    printf 'username=%s\\npassword=%s\\n' \"$WEFT_GIT_USERNAME\" \"$WEFT_GIT_PASSWORD\"; }; f";

/// Settings and variables of every `git` for one repository.
pub(super) struct Access {
    settings: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Access {
    pub(super) fn new(
        url: &Url,
        address: IpAddr,
        secrets: &Secrets,
        private: &Path,
        known_hosts: &Path,
    ) -> io::Result<Self> {
        match url.scheme {
            Scheme::Http => Ok(Self::http(url, address, secrets)),
            Scheme::Ssh => Self::ssh(url, address, secrets, private, known_hosts),
        }
    }

    fn http(url: &Url, address: IpAddr, secrets: &Secrets) -> Self {
        // An empty helper forgets those of the machine.
        let mut settings = vec!["credential.helper=".to_owned()];
        if url.host.parse::<IpAddr>().is_err() {
            let ip = match address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            };
            settings.push(format!(
                "http.curloptResolve={}:{}:{ip}",
                url.host, url.port
            ));
        }
        let mut env = Vec::new();
        if let Some(credentials) = &secrets.git {
            settings.push(HELPER.to_owned());
            env.push(("WEFT_GIT_USERNAME", credentials.username.clone()));
            env.push(("WEFT_GIT_PASSWORD", credentials.password.clone()));
        }
        Self { settings, env }
    }

    fn ssh(
        url: &Url,
        address: IpAddr,
        secrets: &Secrets,
        private: &Path,
        known_hosts: &Path,
    ) -> io::Result<Self> {
        let mut ssh = format!(
            "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 -o HostName={address} \
             -o HostKeyAlias={} -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={} \
             -o PermitLocalCommand=no -o ClearAllForwardings=yes",
            url.host,
            quoted(known_hosts),
        );
        if let Some(key) = &secrets.git_ssh_key {
            let path = private.join("key");
            // A key without its last line feed is none to `ssh`.
            write_private(&path, format!("{}\n", key.trim_end()).as_bytes())?;
            ssh.push_str(&format!(" -o IdentitiesOnly=yes -i {}", quoted(&path)));
        }
        Ok(Self {
            settings: Vec::new(),
            env: vec![
                ("GIT_SSH_COMMAND", ssh),
                ("GIT_SSH_VARIANT", "ssh".to_owned()),
            ],
        })
    }

    pub(super) fn apply(&self, command: &mut Command) {
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}
