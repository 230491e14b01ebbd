//! What a hub says about a repository: its files at one commit, with their sizes and hashes.
//!
//! Source: the Hugging Face Hub's HTTP API, `GET /api/models/{repo}/revision/{revision}?blobs=true` and
//! `GET /{repo}/resolve/{commit}/{file}`. Mirrors that leave sizes and hashes out are read too: the answer to the
//! file's own request names them again.

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde::Deserialize;
use std::{fmt, time::Duration};

/// The hub that is asked where `HF_ENDPOINT` is not set.
const USUAL_ENDPOINT: &str = "https://huggingface.co";

/// Longest silence of a peer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most bytes that a list of files may have: a thousand times what models' lists have.
const LONGEST_LIST: usize = 16 << 20;

/// Redirects from a file's address to where it lies; the hub needs one or two.
const MOST_REDIRECTS: usize = 5;

/// A hub, and how it is asked.
pub(super) struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<String>,
}

/// A repository at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit's name.
    pub(super) commit: String,
    /// All files.
    pub(super) files: Vec<RemoteFile>,
}

/// A file in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path in the repository.
    pub(super) path: String,
    /// Its length in bytes, where the hub says so.
    pub(super) size: Option<u64>,
    /// Its hash, where the hub says so.
    pub(super) hash: Option<FileHash>,
}

/// A file that the hub begins to send.
pub(super) struct Opened {
    /// The answer, its body unread.
    pub(super) answer: Response,
    /// The whole file's length, where the hub says so.
    pub(super) size: Option<u64>,
    /// The whole file's hash, where the hub says so.
    pub(super) hash: Option<FileHash>,
}

/// A hash in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileHash {
    /// Of the bytes: how large files are named.
    Sha256(String),
    /// Of git's object: how small files are named.
    GitSha1(String),
}

impl FileHash {
    /// Reads a hash as entity tags and lists write it; which one it is shows in its length.
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').to_ascii_lowercase();
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::GitSha1(text)),
            _ => None,
        }
    }
}

/// The list as the hub writes it.
#[derive(Deserialize)]
struct Answer {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// The hub that the environment names. `variable` reads it.
    ///
    /// # Errors
    /// When `HF_ENDPOINT` is no address of one, or the token cannot stand in a header.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let filled = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let text = filled("HF_ENDPOINT").unwrap_or_else(|| USUAL_ENDPOINT.to_owned());
        let endpoint = Url::parse(&format!("{}/", text.trim_end_matches('/')))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| format!("HF_ENDPOINT is '{text}', which is no address of a hub"))?;
        let token = filled("HF_TOKEN");
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail!("HF_TOKEN holds characters that no token has");
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .user_agent(concat!("pentimento/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot prepare to ask a hub")?;
        Ok(Self { client, endpoint, token })
    }

    /// The hub's name in messages.
    pub(super) fn name(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// The files of a repository at a revision.
    ///
    /// # Errors
    /// One line that says what the hub answered.
    pub(super) async fn list(&self, repository: &str, revision: &str) -> Result<Listing> {
        let mut url = self.url(&["api", "models"], repository, &["revision", revision])?;
        url.query_pairs_mut().append_pair("blobs", "true");
        let answer = self.get(url, |request| request).await?.answer;
        let about = format!("{repository} at {revision}");
        let answer = self.checked(answer, &about)?;
        let bytes = read_bounded(answer).await.with_context(|| format!("cannot read what {about} has"))?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| anyhow!("{} answers with no list of files: {error}", self.name()))?;
        let files = answer.siblings.into_iter().map(RemoteFile::from).collect();
        Ok(Listing { commit: answer.sha.unwrap_or_else(|| revision.to_owned()), files })
    }

    /// Asks for a file from a byte on. The commit is fixed, so what was fetched before belongs to the same bytes.
    ///
    /// # Errors
    /// When there is no answer, or a refusal; a temporary one says so.
    pub(super) async fn open(&self, repository: &str, commit: &str, path: &str, from: u64) -> Result<Opened> {
        let segments: Vec<_> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        let url = self.url(&[], repository, &segments)?;
        let range = |request: RequestBuilder| match from {
            0 => request,
            _ => request.header(header::RANGE, format!("bytes={from}-")),
        };
        // A body that is packed on its way would have other lengths than the file.
        let answer =
            self.get(url, |request| range(request.header(header::ACCEPT_ENCODING, "identity"))).await?;
        let Opened { answer, size, hash } = answer;
        let answer = match answer.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => answer,
            _ => self.checked(answer, path)?,
        };
        Ok(Opened { answer, size, hash })
    }

    /// Follows redirects by hand: the token is for the hub's own origin and never sent anywhere else.
    async fn get(&self, url: Url, shape: impl Fn(RequestBuilder) -> RequestBuilder) -> Result<Opened> {
        let mut url = url;
        let (mut size, mut hash) = (None, None);
        for _ in 0..=MOST_REDIRECTS {
            let mut request = shape(self.client.get(url.clone()));
            if let (Some(token), true) = (&self.token, url.origin() == self.endpoint.origin()) {
                request = request.bearer_auth(token);
            }
            // The error's own text would hold the address, and that of a store is signed.
            let answer = request
                .send()
                .await
                .map_err(|error| anyhow!(error.without_url()))
                .with_context(|| format!("{} cannot be asked", host_of(&url)))?;
            let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            // Only the hub itself says what a file is; the store behind it has tags of its own kind.
            if said("x-repo-commit").is_some() {
                size = size.or_else(|| said("x-linked-size")?.parse().ok());
                hash = hash.or_else(|| FileHash::read(said("x-linked-etag").or_else(|| said("etag"))?));
            }
            if !answer.status().is_redirection() {
                return Ok(Opened { answer, size, hash });
            }
            let target = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = target
                .and_then(|target| url.join(target).ok())
                .filter(|next| next.scheme() == "https" || next.scheme() == url.scheme())
                .with_context(|| format!("{} redirects to nowhere", host_of(&url)))?;
            url = next;
        }
        bail!("{} redirects in circles", self.name())
    }

    fn checked(&self, answer: Response, about: &str) -> Result<Response> {
        let status = answer.status();
        let hint = match status {
            status if status.is_success() => return Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.token.is_some() => {
                "the token in HF_TOKEN does not open it; a gated model's conditions have to be accepted on its page first"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "it does not exist, is private or gated: set HF_TOKEN to a token that may read it"
            }
            StatusCode::NOT_FOUND => "there is no such repository, revision or file",
            _ => "try again later",
        };
        let message = format!("{} answers {} for {about}: {hint}", self.name(), status.as_u16());
        let passes = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        Err(if passes { anyhow!(message) } else { anyhow!(Refused(message)) })
    }

    /// An address below the endpoint, every part escaped.
    fn url(&self, before: &[&str], repository: &str, after: &[&str]) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let mut segments = url.path_segments_mut().map_err(|()| anyhow!("{} has no paths", self.endpoint))?;
        segments.pop_if_empty().extend(before).extend(repository.split('/')).extend(after);
        drop(segments);
        Ok(url)
    }
}

/// What a hub refuses for good: asking again would change nothing.
#[derive(Debug)]
pub(super) struct Refused(String);

impl Refused {
    /// A refusal with this message.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let Sibling { rfilename, size, blob_id, lfs } = sibling;
        let large = lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref());
        Self {
            path: rfilename,
            size: lfs.as_ref().and_then(|lfs| lfs.size).or(size),
            // A large file's blob is only a note that names it, so its hash says nothing about the bytes.
            hash: match lfs {
                Some(_) => large.and_then(FileHash::read),
                None => blob_id.as_deref().and_then(FileHash::read),
            },
        }
    }
}

async fn read_bounded(mut answer: Response) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| anyhow!(error.without_url()))? {
        if bytes.len() + piece.len() > LONGEST_LIST {
            bail!("it is longer than {LONGEST_LIST} bytes");
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn host_of(url: &Url) -> &str {
    url.host_str().unwrap_or("the hub")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(endpoint: &'static str, token: &'static str) -> Result<Hub> {
        Hub::from_environment(move |name| match name {
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            "HF_TOKEN" => Some(token.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn the_environment_names_the_hub() {
        assert_eq!(hub("", "").expect("the usual one").name(), USUAL_ENDPOINT);
        assert_eq!(hub("http://127.0.0.1:8000/hub/", "").expect("a hub").name(), "http://127.0.0.1:8000/hub");
        for wrong in ["nowhere", "file:///etc", "ftp://x"] {
            assert!(hub(wrong, "").is_err(), "{wrong}");
        }
        assert!(hub("", "two words").is_err());
    }

    #[test]
    fn addresses_are_escaped_part_by_part() {
        let hub = hub("http://h/base", "").expect("a hub");
        let url = hub.url(&["api", "models"], "a/b", &["revision", "refs/pr/1"]).expect("an address");
        assert_eq!(url.as_str(), "http://h/base/api/models/a/b/revision/refs%2Fpr%2F1");
        let url = hub.url(&[], "a/b", &["resolve", "c", "unet", "x?y#z"]).expect("an address");
        assert_eq!(url.as_str(), "http://h/base/a/b/resolve/c/unet/x%3Fy%23z");
    }

    #[test]
    fn hashes_are_told_apart_by_their_length() {
        let (long, short) = ("A".repeat(64), "b".repeat(40));
        assert_eq!(FileHash::read(&format!("\"{long}\"")), Some(FileHash::Sha256("a".repeat(64))));
        assert_eq!(FileHash::read(&format!("W/\"{short}\"")), Some(FileHash::GitSha1(short.clone())));
        for wrong in ["", "\"abc\"", &"g".repeat(64)] {
            assert_eq!(FileHash::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_read_with_and_without_sizes() {
        let text = r#"{ "sha": "c0", "siblings": [ { "rfilename": "a" },
            { "rfilename": "b", "size": 5, "blobId": "0123456789012345678901234567890123456789" },
            { "rfilename": "c", "size": 1, "blobId": "0123456789012345678901234567890123456789",
              "lfs": { "sha256": "no hash", "size": 7 } } ] }"#;
        let answer: Answer = serde_json::from_str(text).expect("it is a list");
        let files: Vec<_> = answer.siblings.into_iter().map(RemoteFile::from).collect();
        assert_eq!(files[0], RemoteFile { path: "a".to_owned(), size: None, hash: None });
        assert!(files[1].size == Some(5) && matches!(files[1].hash, Some(FileHash::GitSha1(_))));
        assert!(files[2].size == Some(7) && files[2].hash.is_none());
    }
}
