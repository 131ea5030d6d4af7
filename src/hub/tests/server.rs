//! A hub and its delivery network on loopback, for tests: the paths, headers and redirects of the real ones.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest, Sha256};

pub(super) const COMMIT: &str = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";
pub(super) const TOKEN: &str = "hf_secret";

/// A request that has come.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) range: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub(super) cut: Option<usize>,
}

impl Reply {
    pub(super) fn of(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            status,
            headers: headers.collect(),
            body: body.to_vec(),
            cut: None,
        }
    }

    pub(super) fn html() -> Self {
        Self::of(
            200,
            &[("Content-Type", "text/html")],
            b"<html>Sign in to the network</html>",
        )
    }
}

/// An answer that is given instead of the usual one, some times, to requests that contain a text.
struct Planned {
    request: String,
    times: usize,
    reply: Reply,
}

/// A repository `a/b`, behind two servers.
pub(super) struct FakeHub {
    pub(super) endpoint: String,
    state: Arc<State>,
}

struct State {
    cdn: String,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    commit: Mutex<String>,
    planned: Mutex<Vec<Planned>>,
    seen: Mutex<Vec<Seen>>,
}

impl FakeHub {
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = address(&hub);
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        let state = Arc::new(State {
            cdn: address(&cdn),
            files: Mutex::new(files.collect()),
            commit: Mutex::new(COMMIT.to_owned()),
            planned: Mutex::default(),
            seen: Mutex::default(),
        });
        for listener in [hub, cdn] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    thread::spawn(move || state.serve(&stream));
                }
            });
        }
        Self { endpoint, state }
    }

    /// Answers requests that contain `request` with `reply`, `times` times.
    pub(super) fn plan(&self, request: &str, times: usize, reply: Reply) {
        let request = request.to_owned();
        self.state.planned.lock().unwrap().push(Planned {
            request,
            times,
            reply,
        });
    }

    pub(super) fn move_to(&self, commit: &str) {
        commit.clone_into(&mut self.state.commit.lock().unwrap());
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        self.state
            .files
            .lock()
            .unwrap()
            .insert(name.to_owned(), bytes.to_vec());
    }

    /// Requests that have come and contain a text, which are then forgotten.
    pub(super) fn seen(&self, request: &str) -> Vec<Seen> {
        let mut seen = self.state.seen.lock().unwrap();
        let all = std::mem::take(&mut *seen).into_iter();
        all.filter(|seen| format!("{} {}", seen.method, seen.path).contains(request))
            .collect()
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Entity tag of a file: that of a large one is its SHA-256.
pub(super) fn etag(name: &str, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    if is_large(name) {
        digest
    } else {
        digest[..40].to_owned()
    }
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".parquet"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

impl State {
    fn serve(&self, stream: &TcpStream) {
        let Some(seen) = read(stream) else {
            return;
        };
        self.seen.lock().unwrap().push(seen.clone());
        let reply = self.planned(&seen).unwrap_or_else(|| self.usual(&seen));
        let _ = write(stream, &reply, seen.method == "HEAD");
    }

    fn planned(&self, seen: &Seen) -> Option<Reply> {
        let mut planned = self.planned.lock().unwrap();
        let line = format!("{} {}", seen.method, seen.path);
        let plan = planned
            .iter_mut()
            .find(|plan| plan.times > 0 && line.contains(&plan.request))?;
        plan.times -= 1;
        Some(plan.reply.clone())
    }

    fn usual(&self, seen: &Seen) -> Reply {
        let commit = self.commit.lock().unwrap().clone();
        let path = seen.path.split('?').next().unwrap();
        let files = self.files.lock().unwrap();
        if let Some(rest) = path.strip_prefix("/api/") {
            return info(rest, &commit, &files);
        }
        let name = path
            .rsplit_once("/resolve/")
            .map_or(path.trim_start_matches("/cdn/"), |(_, rest)| {
                rest.split_once('/').unwrap().1
            });
        let Some(bytes) = files.get(name) else {
            return Reply::of(404, &[("X-Error-Code", "EntryNotFound")], b"");
        };
        if path.starts_with("/cdn/") {
            return ranged(seen, bytes, &[]);
        }
        let (etag, asked) = (
            etag(name, bytes),
            path.split('/')
                .rev()
                .nth(name.matches('/').count() + 1)
                .unwrap(),
        );
        if is_large(name) {
            let (size, cdn) = (
                bytes.len().to_string(),
                format!("{}/cdn/{name}?Signature=signed", self.cdn),
            );
            return Reply::of(
                302,
                &[
                    ("X-Repo-Commit", asked),
                    ("X-Linked-Etag", &format!("\"{etag}\"")),
                    ("X-Linked-Size", &size),
                    ("Location", &cdn),
                    ("ETag", "\"other\""),
                ],
                b"",
            );
        }
        ranged(
            seen,
            bytes,
            &[("X-Repo-Commit", asked), ("ETag", &format!("W/\"{etag}\""))],
        )
    }
}

/// Commit and files of a revision.
fn info(path: &str, commit: &str, files: &BTreeMap<String, Vec<u8>>) -> Reply {
    let Some((_, revision)) = path.split_once("/a/b/revision/") else {
        return Reply::of(404, &[("X-Error-Code", "RepoNotFound")], b"");
    };
    if !["main", "v1", "refs%2Fpr%2F1", commit, COMMIT].contains(&revision) {
        return Reply::of(404, &[("X-Error-Code", "RevisionNotFound")], b"");
    }
    let siblings = files.iter().map(|(name, bytes)| {
        let (size, digest) = (bytes.len(), sha256(bytes));
        if is_large(name) {
            let lfs = json!({"sha256": digest, "size": size});
            json!({"rfilename": name, "size": size, "blobId": "0".repeat(40), "lfs": lfs})
        } else {
            json!({"rfilename": name, "size": size, "blobId": etag(name, bytes)})
        }
    });
    let commit = if revision == COMMIT { COMMIT } else { commit };
    let body = json!({"sha": commit, "siblings": siblings.collect::<Vec<_>>()}).to_string();
    let headers = [("Content-Type", "application/json")];
    Reply::of(200, &headers, body.as_bytes())
}

/// The file, or the part of it that is asked for.
fn ranged(seen: &Seen, bytes: &[u8], headers: &[(&'static str, &str)]) -> Reply {
    let Some(range) = &seen.range else {
        return Reply::of(200, headers, bytes);
    };
    let start: usize = range
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap();
    if start >= bytes.len() {
        return Reply::of(416, headers, b"");
    }
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    Reply::of(
        206,
        &[headers, &[("Content-Range", range.as_str())]].concat(),
        &bytes[start..],
    )
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        authorization: None,
        range: None,
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            return Some(seen);
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.authorization = Some(value.to_owned()),
            "range" => seen.range = Some(value.to_owned()),
            _ => {}
        }
    }
    None
}

fn write(mut stream: &TcpStream, reply: &Reply, is_head: bool) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value.as_str(), "\r\n"]);
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if !is_head {
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        stream.write_all(&reply.body[..end])?;
    }
    stream.flush()
}
