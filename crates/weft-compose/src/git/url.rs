//! Which addresses a repository may have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_types::Reason;
use weft_unit::{Error, Step};

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Which machines may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Also this machine itself.
    pub(crate) loopback: bool,
}

/// How a repository is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    Http,
    Ssh,
}

/// The parts of an address that decide where a request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Reads an address. Only what is certain to mean the same to `git` and to us is let through.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let (scheme, rest, port) = if let Some(rest) = text.strip_prefix("https://") {
        (Scheme::Http, rest, 443)
    } else if let Some(rest) = text.strip_prefix("http://") {
        (Scheme::Http, rest, 80)
    } else if let Some(rest) = text.strip_prefix("ssh://") {
        (Scheme::Ssh, rest, 22)
    } else {
        return Err("does not begin with https://, http:// or ssh://".to_owned());
    };
    if text.len() > 2_048
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
        || text.contains('\\')
    {
        return Err("has characters that an address cannot have".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = match authority.rsplit_once('@') {
        None => authority,
        Some((user, host)) if scheme == Scheme::Ssh && is_user(user) => host,
        Some(_) => return Err("holds credentials; put them into a secret".to_owned()),
    };
    let (host, port) = split_port(host, port).ok_or("has no valid port")?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(is_host) {
        return Err("has no valid host".to_owned());
    }
    Ok(Url {
        scheme,
        host: host.to_owned(),
        port,
    })
}

fn is_user(user: &str) -> bool {
    !user.is_empty()
        && !user.starts_with('-')
        && user
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Splits `host:port` and `[v6]:port`.
fn split_port(authority: &str, usual: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                rest.strip_prefix(':').or(rest.is_empty().then_some(""))?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    match port {
        "" => Some((host, usual)),
        port => Some((host, port.parse().ok().filter(|port| *port > 0)?)),
    }
}

/// The address of a repository's machine; it is asked once, so that a name cannot come to mean
/// another machine after it was checked.
pub(crate) async fn resolve(url: &Url, policy: Policy) -> Result<IpAddr, Error> {
    let fail = |reason, detail: String| Error::new(Step::Prepare, reason, detail);
    let lookup = tokio::net::lookup_host((url.host.as_str(), url.port));
    let found: Vec<SocketAddr> = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            let detail = format!("compose.git.url: {} is not known: {error}", url.host);
            return Err(fail(Reason::NetworkError, detail));
        }
        Err(_) => {
            let detail = format!(
                "compose.git.url: no answer to the question for {}",
                url.host
            );
            return Err(fail(Reason::NetworkError, detail));
        }
    };
    if let Some(why) = found
        .iter()
        .find_map(|address| refusal(address.ip(), policy))
    {
        return Err(fail(
            Reason::PermissionDenied,
            format!(
                "compose.git.url: {} is {why}; repositories there are not read",
                url.host
            ),
        ));
    }
    let first = found.first().map(SocketAddr::ip);
    first.ok_or_else(|| fail(Reason::NetworkError, format!("{} has no address", url.host)))
}

/// Why a machine may not be asked.
fn refusal(ip: IpAddr, policy: Policy) -> Option<&'static str> {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(v6) => {
            let metadata = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            v6.is_unicast_link_local() || v6.segments() == metadata
        }
    };
    if link_local {
        return Some("an address of the local link or of a cloud's metadata");
    }
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Some("not the address of a machine");
    }
    (ip.is_loopback() && !policy.loopback).then_some("this node itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_servers_are_read() {
        let url = parse("https://git.example.org/a/b.git").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("git.example.org", 443));
        let url = parse("ssh://git@[2001:db8::1]:2222/x").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("2001:db8::1", 2222));
        for text in [
            "file:///etc",
            "ext::sh -c x",
            "/srv/repository",
            "git@host:path",
            "--upload-pack=x",
            "https://",
            "https://-oProxyCommand=x/y",
            "ssh://-oProxyCommand=x/y",
            "ssh://-oProxyCommand=x@host/y",
            "https://user:password@host/x",
            "https://host\\@other/x",
            "https://host:0/x",
            "https://host:99999/x",
            "https://ho st/x",
            "https://[::1/x",
            "https://[host]/x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn machines_of_the_local_link_and_this_one_are_refused() {
        let (open, closed) = (Policy { loopback: true }, Policy { loopback: false });
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
            "fd00:ec2::254",
            "100.100.100.200",
            "255.255.255.255",
        ] {
            assert!(refusal(ip.parse().unwrap(), open).is_some(), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(refusal(ip.parse().unwrap(), closed).is_some(), "{ip}");
            assert!(refusal(ip.parse().unwrap(), open).is_none(), "{ip}");
        }
        assert!(refusal("192.0.2.1".parse().unwrap(), closed).is_none());
    }
}
