//! A Git server: `git http-backend` behind the smallest HTTP server that does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_unit::conformance::images::output;

/// A repository that is served on loopback.
pub struct GitServer {
    work: PathBuf,
    pub url: String,
    requests: Arc<AtomicUsize>,
}

impl GitServer {
    /// Serves `<dir>/srv/app.git`; only to those who send `authorization`, if one is given.
    pub fn start(dir: &Path, authorization: Option<&'static str>) -> Self {
        let (srv, work) = (dir.join("srv"), dir.join("work"));
        std::fs::create_dir_all(&srv).unwrap();
        let work_text = work.display().to_string();
        git(dir, &["init", "-q", "-b", "main", &work_text]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/app.git", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let srv = srv.clone();
                std::thread::spawn(move || answer(stream, &srv, authorization));
            }
        });
        Self {
            work,
            url,
            requests,
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.work.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// Commits everything and publishes it.
    pub fn commit(&self) -> String {
        git(&self.work, &["add", "-A"]);
        git(
            &self.work,
            &[
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "commit",
                "-qm",
                "change",
            ],
        );
        let bare = self
            .work
            .with_file_name("srv")
            .join("app.git")
            .display()
            .to_string();
        let _ = std::fs::remove_dir_all(&bare);
        git(&self.work, &["clone", "-q", "--bare", ".", &bare]);
        git(&self.work, &["rev-parse", "HEAD"])
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(dir)
        .args(args);
    output(&mut command).unwrap()
}

fn answer(stream: TcpStream, root: &Path, authorization: Option<&str>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let found = lines[1..].iter().filter_map(|line| line.split_once(": "));
        let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found
            .next()
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let mut stream = stream;
    if authorization.is_some_and(|wanted| header("authorization") != wanted) {
        let refused = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"t\"\r\n\
                       Content-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(refused.as_bytes());
        return;
    }
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let mut request = lines[0].split(' ');
    let (method, target) = (request.next().unwrap(), request.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&body).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let end = said
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let status = head
        .lines()
        .find_map(|line| line.strip_prefix("Status: "))
        .unwrap_or("200 OK");
    let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n");
    let _ = stream.write_all(&said[..end]);
    let _ = stream.write_all(&said[end..]);
}
