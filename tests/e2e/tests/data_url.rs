//! Inputs by URL: fetched by the node, in parts, and from nowhere a user must not reach.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};
use weft_e2e::doors::{rest, submit_over_rest};
use weft_e2e::{Cluster, UpOptions};

const DATA: &[u8] = b"abacadabra";

/// Answers every request on a free port for as long as the tests run; the URL of the data.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away in the middle concerns nobody else.
            let _ = answer(stream);
        }
    });
    format!("http://{address}/data")
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    let head: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let range = head.iter().find_map(|line| {
        let (first, last) = line
            .to_lowercase()
            .strip_prefix("range: bytes=")?
            .split_once('-')
            .map(|(first, last)| (first.parse::<usize>().ok(), last.parse::<usize>().ok()))?;
        Some((first?, last.unwrap_or(DATA.len() - 1).min(DATA.len() - 1)))
    });
    let path = head
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let (status, more, body) = match (path, range) {
        ("/data", Some((first, _))) if first >= DATA.len() => {
            ("416 Range Not Satisfiable", String::new(), &DATA[..0])
        }
        ("/data", Some((first, last))) => {
            let range = format!("content-range: bytes {first}-{last}/{}\r\n", DATA.len());
            ("206 Partial Content", range, &DATA[first..=last])
        }
        ("/data", None) => ("200 OK", String::new(), DATA),
        ("/data-to-metadata", _) => (
            "302 Found",
            "location: http://169.254.169.254/latest\r\n".to_owned(),
            &DATA[..0],
        ),
        _ => ("404 Not Found", String::new(), &DATA[..0]),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn results(cluster: &Cluster, tasks: Value) -> Vec<Value> {
    let job = json!({
        "runtime": "op",
        "op": {"op": "counteq", "imm": b'a'},
        "retry": {"attempts": 1},
        "tasks": tasks,
    });
    let id = submit_over_rest(cluster, &job.to_string());
    rest(
        cluster,
        &[],
        &format!("/v1/jobs/{id}/results?wait=30s&order=task"),
    )
}

#[test]
fn the_parts_of_what_is_at_a_url_are_the_inputs_of_tasks() {
    let args = ["--fetch-from", "127.0.0.0/8"].map(str::to_owned).to_vec();
    let cluster = Cluster::with(UpOptions {
        nodes: 1,
        args,
        ..UpOptions::default()
    });
    let url = serve();
    let tasks = json!([
        {"data_url": url},
        {"data_url": url, "offset": 4},
        {"data_url": url, "offset": 2, "length": 3},
        {"data_url": url, "offset": 100, "length": 3},
        {"data_url": format!("{url}-missing")},
        {"data_url": format!("{url}-to-metadata")},
    ]);
    let results = results(&cluster, tasks);
    let counts: Vec<_> = results
        .iter()
        .map(|task| (&task["result"]["count"], &task["result"]["bytes"]))
        .collect();
    assert_eq!(
        counts[..3],
        [
            (&json!(5), &json!(10)),
            (&json!(3), &json!(6)),
            (&json!(2), &json!(3))
        ]
    );
    let reasons: Vec<_> = results[3..]
        .iter()
        .map(|task| task["reason"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        reasons,
        ["invalid-spec", "artifact-missing", "permission-denied"],
        "{results:?}"
    );
    let inputs = cluster.data_dir().join("agents/node-1/blobs/inputs");
    let left = std::fs::read_dir(inputs)
        .expect("the directory of inputs")
        .count();
    assert_eq!(left, 0, "inputs that no task uses");
}

#[test]
fn a_node_does_not_fetch_for_others_what_only_it_can_reach() {
    let cluster = Cluster::up(1);
    let url = serve();
    let tasks = json!([
        {"data_url": url},
        {"data_url": url.replace("127.0.0.1", "localhost")},
        {"data_url": "http://169.254.169.254/latest/meta-data/iam"},
        {"data_url": "http://[::ffff:169.254.169.254]/"},
        {"data_url": "http://0x7f000001/"},
    ]);
    for task in results(&cluster, tasks) {
        assert_eq!(task["reason"], "permission-denied", "{task}");
        assert!(
            task["detail"]
                .as_str()
                .unwrap_or_default()
                .contains("--fetch-from"),
            "{task}"
        );
    }
}
