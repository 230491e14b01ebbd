//! Who may ask the server: what the file and the environment say, or a pair made for one run.

use crate::config::{AccessKey, AuthConfig, Secret, is_loopback};
use anyhow::{Context, Result, bail};
use pentimento_protocols::{
    bedrock::{self, Auth, Keyring},
    volcengine,
};
use std::net::SocketAddr;

/// Who may ask.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Everybody, by `--no-auth`.
    Open,
    /// Those with one of these.
    Configured {
        /// Pairs for signed requests.
        access_keys: Vec<AccessKey>,
        /// Bearer keys.
        api_keys: Vec<Secret>,
    },
    /// Who sees the terminal.
    ForThisRun(AccessKey),
}

impl Credentials {
    /// Decides who may ask at this address.
    ///
    /// # Errors
    /// Where strangers could reach a server without credentials; and for empty or doubled ones.
    pub(crate) fn decide(
        no_auth: bool,
        listen: SocketAddr,
        from_file: AuthConfig,
        from_environment: AuthConfig,
    ) -> Result<Self> {
        let is_private = is_loopback(listen.ip());
        if no_auth && !is_private {
            bail!("--no-auth answers everybody, so it works on loopback addresses only, not on {listen}");
        }
        if no_auth {
            return Ok(Self::Open);
        }
        let access_keys = [from_file.access_keys, from_environment.access_keys].concat();
        let api_keys = [from_file.api_keys, from_environment.api_keys].concat();
        if !access_keys.is_empty() || !api_keys.is_empty() {
            check(&access_keys, &api_keys)?;
            return Ok(Self::Configured { access_keys, api_keys });
        }
        if !is_private {
            bail!(
                "{listen} can be reached by other machines, and no credentials are configured: set \
                 PENTIMENTO_ACCESS_KEY_ID and PENTIMENTO_SECRET_ACCESS_KEY, or [auth] in the configuration, or listen on \
                 127.0.0.1"
            );
        }
        Ok(Self::ForThisRun(random_pair()?))
    }

    /// Keeps a pair that was made for this run and printed, where there still is no other one.
    pub(crate) fn keep_those_for_this_run(&mut self, before: &Self) {
        if let (Self::ForThisRun(new), Self::ForThisRun(printed)) = (self, before) {
            new.clone_from(printed);
        }
    }

    /// The same in the protocol's terms.
    pub(crate) fn to_auth(&self) -> Auth {
        let (access_keys, api_keys) = match self {
            Self::Open => return Auth::Off,
            Self::Configured { access_keys, api_keys } => (access_keys.as_slice(), api_keys.as_slice()),
            Self::ForThisRun(pair) => (std::slice::from_ref(pair), [].as_slice()),
        };
        let text = |secret: &Secret| secret.reveal().to_owned();
        let pair = |key: &AccessKey| bedrock::AccessKey {
            id: key.id.clone(),
            secret: text(&key.secret),
            session_token: key.session_token.as_ref().map(text),
        };
        Auth::Required(Keyring {
            access_keys: access_keys.iter().map(pair).collect(),
            api_keys: api_keys.iter().map(text).collect(),
        })
    }
}

impl Credentials {
    /// The same in the terms of Volcengine's protocol, which has no bearer keys.
    pub(crate) fn to_volcengine(&self) -> volcengine::Auth {
        let access_keys = match self {
            Self::Open => return volcengine::Auth::Off,
            Self::Configured { access_keys, .. } => access_keys.as_slice(),
            Self::ForThisRun(pair) => std::slice::from_ref(pair),
        };
        let text = |secret: &Secret| secret.reveal().to_owned();
        let pair = |key: &AccessKey| volcengine::AccessKey {
            id: key.id.clone(),
            secret: text(&key.secret),
            session_token: key.session_token.as_ref().map(text),
        };
        volcengine::Auth::Required(access_keys.iter().map(pair).collect())
    }
}

fn check(access_keys: &[AccessKey], api_keys: &[Secret]) -> Result<()> {
    let is_blank = |text: &str| text.trim().is_empty();
    if access_keys.iter().any(|key| is_blank(&key.id) || is_blank(key.secret.reveal())) {
        bail!("an access key has an empty id or secret");
    }
    if api_keys.iter().any(|key| is_blank(key.reveal())) {
        bail!("an API key is empty");
    }
    for (index, key) in access_keys.iter().enumerate() {
        if access_keys[..index].iter().any(|other| other.id == key.id && other.secret != key.secret) {
            bail!("the access key {} is configured twice with different secrets", key.id);
        }
    }
    Ok(())
}

/// A pair in the form that AWS tools expect: 20 characters beginning with AKIA, and 40.
fn random_pair() -> Result<AccessKey> {
    let id = format!("AKIA{}", random_text(16, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?);
    let secret = random_text(40, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-")?;
    Ok(AccessKey::new(id, secret))
}

/// Random letters of an alphabet whose length divides 256, so that all are equally likely.
fn random_text(length: usize, alphabet: &[u8]) -> Result<String> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).context("the system gives no random bytes for credentials")?;
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn keys(secret: &str) -> AuthConfig {
        AuthConfig { access_keys: vec![AccessKey::new("AK", secret)], api_keys: vec![Secret::new("key")] }
    }

    #[test]
    fn strangers_never_reach_an_open_server() {
        for open in ["0.0.0.0:1", "192.168.1.2:1", "[::]:1", "[2001:db8::1]:1"] {
            let nobody = || (AuthConfig::default(), AuthConfig::default());
            let decide = |no_auth| Credentials::decide(no_auth, address(open), nobody().0, nobody().1);
            assert!(decide(true).is_err() && decide(false).is_err(), "{open}");
            let configured = Credentials::decide(false, address(open), keys("s"), AuthConfig::default());
            assert!(configured.is_ok(), "{open}");
        }
    }

    #[test]
    fn on_loopback_a_pair_is_made_that_differs_each_time() {
        let make = || {
            Credentials::decide(false, address("[::1]:1"), AuthConfig::default(), AuthConfig::default())
                .expect("a pair")
        };
        let (one, other) = (make(), make());
        assert_ne!(one, other);
        let Credentials::ForThisRun(pair) = one else { panic!("other credentials") };
        assert_eq!((pair.id.len(), pair.secret.reveal().len()), (20, 40));
    }

    #[test]
    fn file_and_environment_add_up_and_must_not_contradict() {
        let decide = |from_file, from_environment| {
            Credentials::decide(false, address("127.0.0.1:1"), from_file, from_environment)
        };
        let Auth::Required(both) = decide(keys("s"), keys("s")).expect("they agree").to_auth() else {
            panic!("nobody is asked");
        };
        assert_eq!((both.access_keys.len(), both.api_keys.len()), (2, 2));
        assert!(decide(keys("s"), keys("other")).is_err());
        assert!(decide(keys(" "), AuthConfig::default()).is_err());
        let open =
            Credentials::decide(true, address("127.0.0.1:1"), keys("s"), keys("s")).expect("asked for");
        assert!(matches!(open.to_auth(), Auth::Off));
    }
}
