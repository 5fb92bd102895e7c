//! Heads of requests and answers on their way through: what is for one hop only goes, who asked
//! comes along.

use std::net::IpAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request;
use hyper::{Method, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Between nodes only: why a request was not answered by its replica.
pub(super) const REFUSED: HeaderName = HeaderName::from_static("weft-refused");

/// For one hop (RFC 9110, 7.6.1, and what was in use before it).
const ONE_HOP: [HeaderName; 6] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    UPGRADE,
];

/// Why a request is not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfit {
    /// `CONNECT` asks for another kind of proxy.
    Connect,
    /// HTTP/1.1 requires exactly one `Host` (RFC 9112, 3.2).
    Host,
}

/// Makes a client's request one for a replica.
pub(super) fn prepare(
    head: &mut request::Parts,
    client: IpAddr,
    trust_forwarded: bool,
) -> Result<(), Unfit> {
    if head.method == Method::CONNECT {
        return Err(Unfit::Connect);
    }
    take_host(head)?;
    let upgrade = upgrade_of(&head.headers);
    strip(&mut head.headers);
    // The proxy itself asks for the body when the replica is ready to take it.
    head.headers.remove(EXPECT);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.headers, protocol);
    }
    forward(&mut head.headers, client, trust_forwarded);
    head.version = Version::HTTP_11;
    Ok(())
}

/// Makes another node's request one for a replica; who asked is in it already.
pub(super) fn relay(head: &mut request::Parts) {
    let upgrade = upgrade_of(&head.headers);
    strip(&mut head.headers);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.headers, protocol);
    }
}

/// The authority of an absolute target comes before `Host` (RFC 9112, 3.2.2).
fn take_host(head: &mut request::Parts) -> Result<(), Unfit> {
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Unfit::Host)?;
        head.headers.insert(HOST, host);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse::<Uri>().map_err(|_| Unfit::Host)?;
    }
    match head.headers.get_all(HOST).iter().count() {
        1 => Ok(()),
        0 if head.version < Version::HTTP_11 => Ok(()),
        _ => Err(Unfit::Host),
    }
}

/// The protocol that a request or answer upgrades to.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let listed = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| listed)?;
    // HTTP/2 is not spoken, and must not be smuggled past the counts.
    (!protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Removes what is for one hop only.
pub(super) fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        // Nobody may have these removed: they say where the message goes and where it ends.
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
        .collect();
    for name in listed.iter().chain(&ONE_HOP) {
        headers.remove(name);
    }
    let trailers = headers.get(TE).is_some_and(wants_trailers);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // Each hop frames bodies on its own; with both, the length is a lie (RFC 9112, 6.3).
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(REFUSED);
}

fn wants_trailers(te: &HeaderValue) -> bool {
    te.to_str().is_ok_and(|te| {
        te.split(',')
            .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    })
}

fn forward(headers: &mut HeaderMap, client: IpAddr, trusted: bool) {
    let before = headers.remove(FORWARDED_FOR).filter(|_| trusted);
    let chain = match before.as_ref().and_then(|before| before.to_str().ok()) {
        Some(before) => format!("{before}, {client}"),
        None => client.to_string(),
    };
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !trusted || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !trusted || !headers.contains_key(FORWARDED_HOST) {
        headers.remove(FORWARDED_HOST);
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn request(headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri("/x?y").header("host", "web.lan");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn value<'a>(head: &'a request::Parts, name: &str) -> Option<&'a str> {
        head.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn what_is_for_one_hop_does_not_pass() {
        let mut head = request(&[
            ("connection", "keep-alive, x-secret"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "gzip, trailers"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "websocket"),
            ("weft-refused", "unsent"),
            ("accept", "*/*"),
        ]);
        prepare(&mut head, CLIENT, false).unwrap();
        for gone in [
            "connection",
            "keep-alive",
            "x-secret",
            "proxy-authorization",
            "upgrade",
            "weft-refused",
        ] {
            assert_eq!(value(&head, gone), None, "{gone}");
        }
        assert_eq!(value(&head, "te"), Some("trailers"));
        assert_eq!(value(&head, "accept"), Some("*/*"));
    }

    #[test]
    fn a_client_cannot_remove_the_host_or_claim_to_be_another() {
        let mut head = request(&[
            ("connection", "host, x-forwarded-for"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
        ]);
        prepare(&mut head, CLIENT, false).unwrap();
        assert_eq!(value(&head, "host"), Some("web.lan"));
        assert_eq!(value(&head, "x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
        assert_eq!(value(&head, "x-forwarded-host"), Some("web.lan"));
    }

    #[test]
    fn a_trusted_proxy_in_front_is_believed() {
        let mut head = request(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
        ]);
        prepare(&mut head, CLIENT, true).unwrap();
        assert_eq!(value(&head, "x-forwarded-for"), Some("10.0.0.1, 192.0.2.7"));
        assert_eq!(value(&head, "x-forwarded-proto"), Some("https"));
        assert_eq!(value(&head, "x-forwarded-host"), Some("web.lan"));
    }

    #[test]
    fn an_upgrade_passes_but_not_to_http2() {
        let mut socket = request(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        prepare(&mut socket, CLIENT, false).unwrap();
        assert_eq!(upgrade_of(&socket.headers).unwrap(), "websocket");
        let mut h2c = request(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        prepare(&mut h2c, CLIENT, false).unwrap();
        assert_eq!(value(&h2c, "upgrade"), None);
    }

    #[test]
    fn an_absolute_target_becomes_host_and_path() {
        let mut head = request(&[]);
        head.uri = "http://other.lan/a?b".parse().unwrap();
        prepare(&mut head, CLIENT, false).unwrap();
        assert_eq!(value(&head, "host"), Some("other.lan"));
        assert_eq!(head.uri, "/a?b");
    }

    #[test]
    fn connect_and_a_missing_or_second_host_are_refused() {
        let mut connect = request(&[]);
        connect.method = Method::CONNECT;
        assert_eq!(prepare(&mut connect, CLIENT, false), Err(Unfit::Connect));
        let mut none = request(&[]);
        none.headers.remove(HOST);
        assert_eq!(prepare(&mut none, CLIENT, false), Err(Unfit::Host));
        let mut two = request(&[("host", "b")]);
        assert_eq!(prepare(&mut two, CLIENT, false), Err(Unfit::Host));
    }

    #[test]
    fn a_length_beside_chunks_does_not_pass() {
        let mut head = request(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        prepare(&mut head, CLIENT, false).unwrap();
        assert_eq!(value(&head, "content-length"), None);
        assert_eq!(value(&head, "transfer-encoding"), None);
    }
}
