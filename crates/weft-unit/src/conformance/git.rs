//! A Git server: `git http-backend` behind the smallest HTTP server that does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::images::output;

/// A repository that is served over HTTP, with a working copy to change it from. It is served for as
/// long as the process of the tests lives.
#[derive(Debug)]
pub struct GitServer {
    work: PathBuf,
    requests: Arc<AtomicUsize>,
    /// Address of the repository.
    pub url: String,
}

impl GitServer {
    /// Serves `<dir>/srv/app.git` on loopback; only to those who send this `Authorization`, if one is
    /// given.
    ///
    /// # Errors
    /// What could not be made.
    pub fn start(dir: &Path, authorization: Option<&str>) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        Self::serve(dir, listener, authorization)
    }

    /// The same on a listener, which may be another network namespace's.
    ///
    /// # Errors
    /// What could not be made.
    pub fn serve(
        dir: &Path,
        listener: TcpListener,
        authorization: Option<&str>,
    ) -> Result<Self, String> {
        let (srv, work) = (dir.join("srv"), dir.join("work"));
        fs::create_dir_all(&srv).map_err(|error| format!("{}: {error}", srv.display()))?;
        git(
            dir,
            &["init", "-q", "-b", "main", &work.display().to_string()],
        )?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let authorization = authorization.map(str::to_owned);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (srv, authorization) = (srv.clone(), authorization.clone());
                // Whoever breaks off is told nothing more.
                std::thread::spawn(move || answer(stream, &srv, authorization.as_deref()));
            }
        });
        Ok(Self {
            work,
            requests,
            url: format!("http://{address}/app.git"),
        })
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Path of a file in the working copy; its directory is made.
    ///
    /// # Errors
    /// What could not be made.
    pub fn file(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.work.join(name);
        let parent = path.parent().unwrap_or(&self.work);
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        Ok(path)
    }

    /// Writes a file of the working copy.
    ///
    /// # Errors
    /// What could not be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.file(name)?;
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Commits everything and publishes it; the commit.
    ///
    /// # Errors
    /// What `git` said.
    pub fn commit(&self) -> Result<String, String> {
        git(&self.work, &["add", "-A"])?;
        let name = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let mut commit = name.to_vec();
        commit.extend(["commit", "-q", "--allow-empty", "-m", "change"]);
        git(&self.work, &commit)?;
        let bare = self.work.with_file_name("srv").join("app.git");
        let bare = bare.display().to_string();
        if Path::new(&bare).exists() {
            git(&self.work, &["push", "-q", "--force", &bare, "main"])?;
        } else {
            git(&self.work, &["clone", "-q", "--bare", ".", &bare])?;
        }
        git(&self.work, &["rev-parse", "HEAD"])
    }
}

fn git(dir: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    output(command.current_dir(dir).args(args))
}

/// The first line of a request, and its headers.
fn head(reader: &mut impl BufRead) -> std::io::Result<(String, Vec<(String, String)>)> {
    let (mut first, mut headers) = (String::new(), Vec::new());
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => return Ok((first, headers)),
        }
    }
}

fn answer(mut stream: TcpStream, root: &Path, authorization: Option<&str>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (first, headers) = head(&mut reader)?;
    let header = |name: &str| {
        let found = headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    if authorization.is_some_and(|wanted| header("authorization") != wanted) {
        return stream.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"t\"\r\n\
              Content-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut request = first.split(' ');
    let method = request.next().unwrap_or_default();
    let target = request.next().unwrap_or_default();
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
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&body)?;
    }
    let said = child.wait_with_output()?.stdout;
    let end = said.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = said.split_at(end.unwrap_or(0));
    let text = String::from_utf8_lossy(head);
    let status = text.lines().find_map(|line| line.strip_prefix("Status: "));
    let status = status.unwrap_or("200 OK");
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    stream.write_all(head)?;
    stream.write_all(rest)
}
