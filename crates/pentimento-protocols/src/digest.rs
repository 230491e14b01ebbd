//! Hashes and their spelling, as signatures need them. Secrets are compared in constant time.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// A message's authentication code, ready to be written or compared.
pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Hmac<Sha256> {
    let mut code = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    code.update(message);
    code
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits in any case stand for.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
        _ => None,
    };
    pairs.map(byte).collect()
}

/// Compares in a time that does not depend on where the texts part.
pub(crate) fn same_secret(known: &str, given: &str) -> bool {
    fingerprint(known).verify_slice(&fingerprint(given).finalize().into_bytes()).is_ok()
}

/// What stands for a secret without telling it.
pub(crate) fn fingerprint(secret: &str) -> Hmac<Sha256> {
    hmac(b"pentimento", secret.as_bytes())
}
