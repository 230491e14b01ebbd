//! A small hub on loopback: lists, files with ranges, redirects to a store, and every way in which a transfer breaks.

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// The commit of all files.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the hub treats its clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Answers to a file's request end after so many bytes of it.
    pub(crate) cut_after: Option<usize>,
    /// Only so many answers are cut; later ones are whole.
    pub(crate) cuts: usize,
    /// Ranges are not served.
    pub(crate) no_ranges: bool,
    /// Nothing is said about lengths and hashes.
    pub(crate) silent: bool,
    /// Files lie in a store that is reached by a redirect.
    pub(crate) store: Option<String>,
    /// Only who brings this token is answered.
    pub(crate) token: Option<String>,
    /// Of this file other bytes are sent than its hash says.
    pub(crate) wrong: Option<String>,
}

/// A request as the hub saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// The hub. Its threads end with the test's process.
pub(crate) struct Hub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    manners: Manners,
    seen: Vec<Seen>,
}

impl Hub {
    /// A hub whose every repository has these files.
    pub(crate) fn start(files: &[(&str, Vec<u8>)], manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has one"));
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, manners, seen: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &shared));
            }
        });
        Self { url, state }
    }

    /// Changes its manners.
    pub(crate) fn behave(&self, manners: Manners) {
        self.state.lock().expect("nobody panics with it").manners = manners;
    }

    /// What was asked since the last look.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().expect("nobody panics with it").seen)
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let seen = read_request(&stream)?;
    let (bytes, manners, path) = {
        let mut state = state.lock().ok()?;
        state.seen.push(seen.clone());
        let manners = state.manners.clone();
        let wanted = manners.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && wanted != seen.authorization {
            return refuse(&mut stream, "401 Unauthorized");
        }
        if seen.target.starts_with("/api/models/") {
            let list = list(&state.files, manners.silent);
            return send(&mut stream, "200 OK", "", list.as_bytes());
        }
        let path = seen.target.split_once(&format!("/resolve/{COMMIT}/")).map(|(_, path)| path.to_owned());
        let path = path.and_then(|path| path.split('?').next().map(str::to_owned));
        let Some(bytes) = path.as_ref().and_then(|path| state.files.get(path)).cloned() else {
            return refuse(&mut stream, "404 Not Found");
        };
        let cuts = manners.cuts > 0 && manners.cut_after.is_some_and(|most| bytes.len() > most);
        state.manners.cuts = manners.cuts.saturating_sub(usize::from(cuts));
        (bytes, manners, path?)
    };
    if let Some(store) = &manners.store {
        let head = format!("location: {store}{}?signature=secret\r\n", seen.target);
        return send(&mut stream, "302 Found", &head, b"");
    }
    send_file(&mut stream, &seen, &manners, &path, bytes)
}

fn send_file(
    stream: &mut TcpStream,
    seen: &Seen,
    manners: &Manners,
    path: &str,
    mut bytes: Vec<u8>,
) -> Option<()> {
    if manners.wrong.as_deref() == Some(path) {
        bytes[0] ^= 1;
    }
    let from = seen.range.as_ref().filter(|_| !manners.no_ranges);
    let from: usize =
        from.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    let total = bytes.len();
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let rest = &bytes[from.min(total)..];
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", rest.len()).ok()?;
    if from > 0 {
        write!(stream, "content-range: bytes {from}-{}/{total}\r\n", total - 1).ok()?;
    }
    write!(stream, "\r\n").ok()?;
    let cut = manners.cut_after.filter(|_| manners.cuts > 0).unwrap_or(usize::MAX);
    stream.write_all(&rest[..rest.len().min(cut)]).ok()
}

fn send(stream: &mut TcpStream, status: &str, head: &str, body: &[u8]) -> Option<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n")
        .ok()?;
    stream.write_all(body).ok()
}

fn refuse(stream: &mut TcpStream, status: &str) -> Option<()> {
    send(stream, status, "", b"")
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut seen = Seen { target: lines.next()?.split(' ').nth(1)?.to_owned(), ..Seen::default() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(seen)
}

fn list(files: &BTreeMap<String, Vec<u8>>, silent: bool) -> String {
    let file = |(path, bytes): (&String, &Vec<u8>)| {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let size = bytes.len();
        match silent {
            true => format!(r#"{{"rfilename":"{path}"}}"#),
            false => {
                format!(r#"{{"rfilename":"{path}","size":{size},"lfs":{{"sha256":"{hash}","size":{size}}}}}"#)
            }
        }
    };
    let files: Vec<_> = files.iter().map(file).collect();
    format!(r#"{{"id":"x","sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","))
}
