//! The seed of a guest's cloud-init: a volume `cidata` for the NoCloud data source, whose files are
//! as the workload gives them, or made.
//! <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>

mod iso;

use serde_json::{Value, json};
use sha_crypt::{Sha512Params, sha512_crypt_b64};
use weft_types::{CloudInit, Login, Reason};
use weft_unit::{Error, Step, Unit};

use crate::fail;
use crate::machine::Card;

/// Rounds of the hash of a password: five times the default of crypt(5).
const PASSWORD_ROUNDS: usize = 25_000;
/// The salt has 16 characters.
const SALT_CHARS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The volume of a unit. `spec` and `login` are its own; name servers come from `dns`, by card.
///
/// # Errors
/// When a password is wanted and its secret has none.
pub(crate) fn volume(
    unit: &Unit,
    spec: Option<&CloudInit>,
    login: Option<&Login>,
    networks: &[Network<'_>],
) -> Result<Vec<u8>, Error> {
    let given = spec.cloned().unwrap_or_default();
    let vendor_data = match login {
        Some(login) => cloud_config(&vendor_data(unit, login)?),
        None => given
            .vendor_data
            .unwrap_or_else(|| cloud_config(&json!({}))),
    };
    let user_data = given.user_data.unwrap_or_else(|| cloud_config(&json!({})));
    let meta_data = given.meta_data.unwrap_or_else(|| meta_data(unit));
    let network_config = given
        .network_config
        .unwrap_or_else(|| pretty(&network_config(networks)));
    let files = [
        ("user-data", &user_data),
        ("meta-data", &meta_data),
        ("network-config", &network_config),
        ("vendor-data", &vendor_data),
    ];
    let files = files.map(|(name, content)| iso::File {
        name,
        content: content.as_bytes(),
    });
    Ok(iso::volume("cidata", &files))
}

/// A card with what only the seed says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<'a> {
    pub(crate) card: &'a Card,
    pub(crate) gateway: Option<std::net::IpAddr>,
    pub(crate) dns: &'a [std::net::IpAddr],
}

/// JSON, a line a field: YAML reads it as well, and so does a guest with `sed`.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn cloud_config(value: &Value) -> String {
    format!("#cloud-config\n{}", pretty(value))
}

fn meta_data(unit: &Unit) -> String {
    // Underscores are allowed in names of workloads, not in those of hosts.
    let host = unit.name.as_str().replace('_', "-");
    format!("instance-id: {}\nlocal-hostname: {host}\n", unit.id)
}

fn network_config(networks: &[Network<'_>]) -> Value {
    let mut cards = serde_json::Map::new();
    for (index, network) in networks.iter().enumerate() {
        let mut card = json!({"match": {"macaddress": network.card.mac}});
        match network.card.address {
            None => card["dhcp4"] = true.into(),
            Some((address, prefix)) => {
                card["addresses"] = json!([format!("{address}/{prefix}")]);
                if let Some(gateway) = network.gateway {
                    let all = if gateway.is_ipv4() {
                        "0.0.0.0/0"
                    } else {
                        "::/0"
                    };
                    card["routes"] = json!([{"to": all, "via": gateway}]);
                }
            }
        }
        if !network.dns.is_empty() {
            card["nameservers"] = json!({"addresses": network.dns});
        }
        cards.insert(format!("net{index}"), card);
    }
    json!({"version": 2, "ethernets": cards})
}

fn vendor_data(unit: &Unit, login: &Login) -> Result<Value, Error> {
    let mut user = json!({
        "name": login.user,
        "groups": "sudo",
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": true,
        "ssh_authorized_keys": login.ssh_keys,
    });
    let has_password = login.password_secret.is_some();
    if let Some(secret) = &login.password_secret {
        let password = unit.secrets.login_password.as_deref();
        let password = password
            .filter(|password| !password.is_empty())
            .ok_or_else(|| {
                let message = format!("secret {secret:?} has no `password`; set it");
                fail::refused("vm.login.password_secret", message)
            })?;
        user["lock_passwd"] = false.into();
        user["hashed_passwd"] = password_hash(password)?.into();
    }
    Ok(json!({"users": ["default", user], "ssh_pwauth": has_password}))
}

/// The password as crypt(5) has it, with SHA-512.
fn password_hash(password: &str) -> Result<String, Error> {
    let failed = |e: String| {
        let detail = format!("hashing the login's password: {e}");
        Error::new(Step::Prepare, Reason::Internal, detail)
    };
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| failed(e.to_string()))?;
    let salt = random.map(|byte| SALT_CHARS[usize::from(byte & 63)]);
    let params = Sha512Params::new(PASSWORD_ROUNDS).map_err(|e| failed(format!("{e:?}")))?;
    let hash = sha512_crypt_b64(password.as_bytes(), &salt, &params);
    let hash = hash.map_err(|e| failed(format!("{e:?}")))?;
    let salt = String::from_utf8_lossy(&salt).into_owned();
    Ok(format!("$6$rounds={PASSWORD_ROUNDS}${salt}${hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Link;

    #[test]
    fn hash_is_the_one_of_crypt() {
        let hash = password_hash("s3cret").unwrap();
        let mut parts = hash.split('$').skip(3);
        let salt = parts.next().unwrap();
        let openssl = std::process::Command::new("mkpasswd")
            .args(["-m", "sha512crypt", "-R", "25000", "-S", salt, "s3cret"])
            .output();
        match openssl {
            Ok(output) if output.status.success() => {
                assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), hash);
            }
            _ => eprintln!("skipped: needs mkpasswd of whois"),
        }
        assert_eq!(hash.rsplit('$').next().unwrap().len(), 86);
        assert_ne!(password_hash("s3cret").unwrap(), hash, "the salt is fixed");
    }

    #[test]
    fn network_config_has_a_card_for_each_network() {
        let card = |mac: &str, address: Option<&str>| Card {
            mac: mac.to_owned(),
            link: Link::User {
                ports: Vec::new(),
                gateway: None,
            },
            address: address.map(|a| (a.parse().unwrap(), 24)),
        };
        let (first, second) = (card("52:00", None), card("52:01", Some("192.0.2.9")));
        let dns = ["192.0.2.53".parse().unwrap()];
        let networks = [
            Network {
                card: &first,
                gateway: None,
                dns: &[],
            },
            Network {
                card: &second,
                gateway: Some("192.0.2.1".parse().unwrap()),
                dns: &dns,
            },
        ];
        let made = network_config(&networks);
        assert_eq!(made["ethernets"]["net0"]["dhcp4"], true);
        let second = &made["ethernets"]["net1"];
        assert_eq!(second["addresses"][0], "192.0.2.9/24");
        assert_eq!(second["routes"][0]["via"], "192.0.2.1");
        assert_eq!(second["nameservers"]["addresses"][0], "192.0.2.53");
    }
}
