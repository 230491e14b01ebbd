//! The server from its first line to its end.

use crate::program::{Folder, program, run};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
};
use tempfile::TempDir;

/// A running server. It is killed when a test fails before its end.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
    /// The user's own data in this test.
    _data: TempDir,
}

impl Server {
    /// Starts one on a free port, and waits until it says where it listens.
    pub(crate) fn start(options: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_logged(options, environment, Stdio::null())
    }

    /// The same with its log.
    pub(crate) fn start_logged(options: &[&str], environment: &[(&str, &str)], log: Stdio) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut child = program()
            .env("XDG_DATA_HOME", data.path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(options)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut first = String::new();
        stdout.read_line(&mut first).expect("it says something");
        let address = first.strip_prefix("listening on http://").expect("it listens").trim().to_owned();
        Self { child, stdout, address, _data: data }
    }

    /// Sends a request, and answers status and body.
    pub(crate) fn ask(&self, head: &str, body: &str) -> (u16, Vec<u8>) {
        self.ask_as(head, "", body)
    }

    /// The same with further headers.
    pub(crate) fn ask_as(&self, head: &str, headers: &str, body: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("somebody listens");
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
        .expect("it is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is answered");
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("it has a head");
        let status = std::str::from_utf8(&answer[9..12]).expect("a status").parse().expect("a number");
        (status, answer[end + 4..].to_vec())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill is a program").success());
    }

    /// Asks it to end, and answers its exit code and what else it printed.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("it is text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn invoke(body: &Value) -> (String, String) {
    ("POST /model/stability.stable-diffusion-xl-v1%3A0/invoke".to_owned(), body.to_string())
}

#[cfg(unix)]
#[test]
fn it_says_where_it_listens_and_how_to_ask_and_ends_when_told() {
    let server = Server::start(&[], &[]);
    assert_eq!(server.ask("GET /healthz", "").0, 200);
    assert_eq!(server.ask("GET /readyz", "").0, 200);
    let (target, body) = invoke(&json!({ "text_prompts": [{ "text": "x" }] }));
    assert_eq!(server.ask(&target, &body).0, 403, "who has no key is turned away");
    let address = server.address.clone();
    let (code, rest) = server.end();
    assert_eq!(code, Some(0));
    assert!(
        rest.contains("boto3.client(") && rest.contains(&format!("endpoint_url=\"http://{address}\"")),
        "{rest}"
    );
    assert!(rest.contains("aws bedrock-runtime invoke-model"), "{rest}");
}

#[cfg(unix)]
#[test]
fn old_bodies_get_their_picture() {
    let server = Server::start(&["--no-auth", "--threads", "2"], &[]);
    let (target, body) =
        invoke(&json!({ "text_prompts": [{ "text": "a red apple, 3d model" }], "steps": 10, "seed": 7 }));
    let (status, answer) = server.ask(&target, &body);
    let answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["result"], &answer["artifacts"][0]["seed"]), (&"success".into(), &7.into()));
    assert!(answer["artifacts"][0]["base64"].as_str().is_some_and(|text| text.starts_with("iVBORw0KGgo")));
    assert_eq!(server.end().0, Some(0));
}

#[cfg(unix)]
#[test]
fn configured_credentials_are_not_printed() {
    let keys = [("PENTIMENTO_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("PENTIMENTO_SECRET_ACCESS_KEY", "hush-hush")];
    let (code, rest) = Server::start(&["--log-format", "json"], &keys).end();
    assert_eq!((code, rest.as_str()), (Some(0), ""));
}

#[test]
fn strangers_are_not_let_in_by_accident() {
    run(&["serve", "--listen", "0.0.0.0:0"]).is_an_error(1, &["0.0.0.0:0", "PENTIMENTO_ACCESS_KEY_ID"]);
    run(&["serve", "--listen", "0.0.0.0:0", "--no-auth"]).is_an_error(1, &["--no-auth", "loopback"]);
}

#[test]
fn what_cannot_be_served_is_told_in_one_line() {
    let folder = Folder::new();
    run(&["serve", "--listen", "nowhere"]).is_an_error(1, &["'nowhere'"]);
    let text = folder.write("text.pem", b"no certificate");
    run(&["serve", "--tls-cert", &text, "--tls-key", &text]).is_an_error(1, &["text.pem"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has one").to_string();
    run(&["serve", "--listen", &address]).is_an_error(1, &[&address]);
}
