//! Advertises and finds a server on this machine, over whatever interfaces it has.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use weft_discovery::{Error, advertise, find, find_first};

const PORT: u16 = 18443;
const SERVER: &str = "rack.1_a-server-with-the-longest-name-that-an-id-can-have-0000000";
const FIND: Duration = Duration::from_secs(60);

/// Why multicast does not work on this machine, if so: the crate says so and a plain socket agrees.
async fn multicast_problem() -> Option<Error> {
    let problem = find(Duration::from_millis(100)).await.err()?;
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let joined = socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED);
    assert!(
        joined.is_err(),
        "a plain socket can join the group, but: {problem}"
    );
    Some(problem)
}

/// Fingerprints that no other run on this network uses.
fn unique_fingerprint() -> String {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    format!("{nanos:032x}{:032x}", std::process::id())
}

#[tokio::test]
async fn a_server_is_found_by_its_fingerprint_until_it_withdraws() {
    if let Some(problem) = multicast_problem().await {
        println!("skipped: {problem}");
        return;
    }
    let fingerprint = unique_fingerprint();
    let advertisement = advertise("home", PORT, &fingerprint, SERVER).unwrap();
    let asked = Instant::now();
    let found = find_first(Some(&fingerprint.to_uppercase()), FIND)
        .await
        .unwrap()
        .expect("the server is found");
    println!("found after {:?}: {found:?}", asked.elapsed());
    assert_eq!(
        (found.cluster.as_str(), found.server_id.as_str()),
        ("home", SERVER)
    );
    assert_eq!(found.fingerprint, fingerprint);
    assert!(
        !found.addresses.is_empty() && found.addresses.iter().all(|address| address.port() == PORT),
        "{found:?}"
    );

    drop(advertisement);
    let left = find(Duration::from_secs(2)).await.unwrap();
    assert!(
        left.iter().all(|server| server.fingerprint != fingerprint),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_the_first() {
    if let Some(problem) = multicast_problem().await {
        println!("skipped: {problem}");
        return;
    }
    let _other = advertise("other", PORT, &unique_fingerprint(), "s1").unwrap();
    let wanted = "0".repeat(64);
    assert_eq!(
        find_first(Some(&wanted), Duration::from_secs(3)).await,
        Ok(None)
    );
}

#[tokio::test]
async fn without_multicast_the_error_says_what_to_do() {
    let Some(error) = multicast_problem().await else {
        println!(
            "skipped: multicast works on this machine (run in an empty network namespace to see it fail)"
        );
        return;
    };
    assert!(error.to_string().contains("--join ADDR"), "{error}");
}
