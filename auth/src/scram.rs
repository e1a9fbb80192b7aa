//! SCRAM-SHA-256 (RFC 5802, RFC 7677): a password proved without sending it.
//!
//! Pure: messages in, messages out; where a verifier comes from and where the state lives between
//! the two steps is somebody else's (`exchange`). The broker keeps only the verifier, from which
//! the password cannot be used elsewhere, and the client learns that the broker knows it.
//!
//! Channel binding is not offered, so a client that asks for it (`p=`) is refused, and so is any
//! mandatory extension (`m=`). User names are taken as they are sent, byte by byte, like those of
//! plain passwords; passwords are prepared as RFC 4013 says, by [`Verifier::make`] and by clients.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::der::sha256;

/// Longest message of a client, in bytes.
const MAX_MESSAGE: usize = 4096;
/// Length of hashes, keys and proofs.
const LENGTH: usize = digest::SHA256_OUTPUT_LEN;

/// What the password file keeps for a user: `scram-sha-256$ITERATIONS$SALT$STORED-KEY$SERVER-KEY`,
/// the last three in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Box<[u8]>,
    stored_key: [u8; LENGTH],
    server_key: [u8; LENGTH],
}

impl Verifier {
    const SCHEME: &'static str = "scram-sha-256";
    /// What new passwords get. Clients do this work at each connection, small ones too.
    pub(crate) const ITERATIONS: u32 = 50_000;
    /// RFC 7677, section 4, asks for at least 4096; more than a million is a mistake.
    const ALLOWED: std::ops::RangeInclusive<u32> = 4096..=1_000_000;
    pub(crate) const SALT: usize = 16;

    /// The verifier of a password.
    pub(crate) fn make(password: &[u8], salt: &[u8], iterations: u32) -> Option<Self> {
        let salted = salted(password, salt, iterations)?;
        let client_key = mac(salted.as_ref(), &[b"Client Key"]);
        Some(Self {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&client_key),
            server_key: mac(salted.as_ref(), &[b"Server Key"]),
        })
    }

    /// What a stranger is challenged with: looks like a user's and fits no password. `secret`
    /// makes the salt of a name the same at each attempt and unpredictable otherwise.
    pub(crate) fn of_stranger(secret: &hmac::Key, name: &str, iterations: u32) -> Self {
        let derive = |label: &[u8]| {
            let mut context = hmac::Context::with_key(secret);
            context.update(label);
            context.update(name.as_bytes());
            array(context.sign().as_ref())
        };
        let salt: [u8; LENGTH] = derive(b"scram salt\0");
        Self {
            iterations,
            salt: salt.get(..Self::SALT).unwrap_or_default().into(),
            stored_key: derive(b"scram stored key\0"),
            server_key: derive(b"scram server key\0"),
        }
    }

    /// As the password file has it.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}${}${}${}${}",
            Self::SCHEME,
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    /// Reads [`text`](Self::text), strictly.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut fields = text.split('$');
        let scheme = fields.next();
        let (Some(iterations), Some(salt), Some(stored), Some(server), None) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return Err("does not have five fields between '$'".into());
        };
        if scheme != Some(Self::SCHEME) {
            return Err(format!("does not begin with {}", Self::SCHEME));
        }
        let canonical = |number: &u32| number.to_string() == iterations;
        let iterations = iterations
            .parse()
            .ok()
            .filter(canonical)
            .filter(|number| Self::ALLOWED.contains(number))
            .ok_or("has an iteration count outside 4096 to 1000000")?;
        let salt = STANDARD.decode(salt).unwrap_or_default();
        if !(8..=64).contains(&salt.len()) {
            return Err("has no salt of 8 to 64 bytes in base64".into());
        }
        let key = |text: &str| {
            STANDARD
                .decode(text)
                .ok()
                .and_then(|bytes| <[u8; LENGTH]>::try_from(bytes).ok())
                .ok_or("has a key that is not 32 bytes in base64")
        };
        Ok(Self {
            iterations,
            salt: salt.into(),
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// What the final message must repeat, in base64.
    gs2_header: Box<str>,
    /// Whom the client wants to act as, if it says so.
    pub(crate) authorization: Option<Box<str>>,
    /// The user.
    pub(crate) name: Box<str>,
    nonce: Box<str>,
    bare: Box<str>,
}

impl First {
    /// Reads `n,,n=user,r=nonce`.
    ///
    /// # Errors
    ///
    /// What is wrong, for the operator.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, &'static str> {
        let message = text(message)?;
        let (header, bare) = gs2(message)?;
        if bare.starts_with("m=") {
            return Err("the client asks for an extension (m=)");
        }
        let mut fields = bare.split(',');
        let name = fields
            .next()
            .and_then(|field| field.strip_prefix("n="))
            .ok_or("the first message has no user name")?;
        let nonce = fields
            .next()
            .and_then(|field| field.strip_prefix("r="))
            .filter(|nonce| is_nonce(nonce))
            .ok_or("the first message has no nonce")?;
        Ok(Self {
            gs2_header: header.text.into(),
            authorization: header.authorization,
            name: unescape(name).ok_or("the user name is not escaped as it should be")?,
            nonce: nonce.into(),
            bare: bare.into(),
        })
    }
}

/// Between the two steps.
#[derive(Debug)]
pub(crate) struct Challenge {
    first: First,
    verifier: Verifier,
    nonce: String,
    server_first: String,
}

impl Challenge {
    /// The answer to a first message; `random` is the server's part of the nonce.
    pub(crate) fn new(first: First, verifier: Verifier, random: &[u8; 18]) -> Self {
        let nonce = format!("{}{}", first.nonce, STANDARD.encode(random));
        let server_first = format!(
            "r={nonce},s={},i={}",
            STANDARD.encode(&verifier.salt),
            verifier.iterations
        );
        Self {
            first,
            verifier,
            nonce,
            server_first,
        }
    }

    /// What the client is sent.
    pub(crate) fn message(&self) -> &str {
        &self.server_first
    }

    /// The user.
    pub(crate) fn name(&self) -> &str {
        &self.first.name
    }

    /// Judges the final message; gives the broker's own proof for the client.
    ///
    /// # Errors
    ///
    /// What is wrong, for the operator.
    pub(crate) fn verify(&self, message: &[u8]) -> Result<String, &'static str> {
        let message = text(message)?;
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or("the final message has no proof")?;
        let mut fields = without_proof.split(',');
        let binding = fields
            .next()
            .and_then(|field| field.strip_prefix("c="))
            .and_then(|binding| STANDARD.decode(binding).ok());
        if binding.as_deref() != Some(self.first.gs2_header.as_bytes()) {
            return Err("the final message repeats another header than the first one");
        }
        if fields.next().and_then(|field| field.strip_prefix("r=")) != Some(&self.nonce) {
            return Err("the final message has another nonce");
        }
        let proof: [u8; LENGTH] = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("the proof is not 32 bytes in base64")?;
        let signed: [&[u8]; 5] = [
            self.first.bare.as_bytes(),
            b",",
            self.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let mut client_key = mac(&self.verifier.stored_key, &signed);
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        if !bool::from(sha256(&client_key).ct_eq(&self.verifier.stored_key)) {
            return Err("the password is wrong");
        }
        let own = mac(&self.verifier.server_key, &signed);
        Ok(format!("v={}", STANDARD.encode(own)))
    }
}

/// The beginning of a client's first message (RFC 5801, section 4).
pub(crate) struct Header<'a> {
    /// With the comma at its end.
    text: &'a str,
    /// `a=`.
    pub(crate) authorization: Option<Box<str>>,
}

/// Splits a message after its GS2 header.
///
/// # Errors
///
/// Channel binding, or no such header.
pub(crate) fn gs2(message: &str) -> Result<(Header<'_>, &str), &'static str> {
    let mut parts = message.splitn(3, ',');
    let (Some(flag), Some(authorization), Some(rest)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err("the message has no GS2 header");
    };
    match flag {
        // "y": the client could bind, and believes that the server cannot; which is so.
        "n" | "y" => {}
        _ if flag.starts_with("p=") => return Err("the client asks for channel binding"),
        _ => return Err("the message has no GS2 header"),
    }
    let authorization = match authorization.strip_prefix("a=") {
        Some(name) => Some(unescape(name).ok_or("the authorization identity is malformed")?),
        None if authorization.is_empty() => None,
        None => return Err("the message has no GS2 header"),
    };
    let end = message.len() - rest.len();
    let text = message.get(..end).unwrap_or_default();
    Ok((
        Header {
            text,
            authorization,
        },
        rest,
    ))
}

/// `saslname` of RFC 5802, section 5.1: `=2C` stands for a comma and `=3D` for `=`.
fn unescape(name: &str) -> Option<Box<str>> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        let (char, after) = match (after.strip_prefix("2C"), after.strip_prefix("3D")) {
            (Some(after), _) => (',', after),
            (None, Some(after)) => ('=', after),
            (None, None) => return None,
        };
        out.push(char);
        rest = after;
    }
    out.push_str(rest);
    (!out.is_empty()).then(|| out.into())
}

/// Printable ASCII without a comma; long enough that it does not repeat.
fn is_nonce(nonce: &str) -> bool {
    (8..=256).contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_graphic())
}

fn text(message: &[u8]) -> Result<&str, &'static str> {
    if message.len() > MAX_MESSAGE {
        return Err("the message is longer than 4096 bytes");
    }
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("the message is not text"),
    }
}

/// `Hi` of RFC 5802, section 2.2, over the prepared password.
fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Option<Zeroizing<[u8; LENGTH]>> {
    let prepared = prepare(password);
    let mut out = Zeroizing::new([0; LENGTH]);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        NonZeroU32::new(iterations)?,
        salt,
        &prepared,
        out.as_mut(),
    );
    Some(out)
}

/// `SASLprep`; a password that it does not admit, or that is no text, is taken as it is, as other
/// servers do.
fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(match prepared {
        Some(text) => text.into_owned().into_bytes(),
        None => password.to_vec(),
    })
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; LENGTH] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    array(context.sign().as_ref())
}

fn array(bytes: &[u8]) -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn example() -> Challenge {
        let salt = STANDARD.decode(SALT).unwrap();
        let verifier = Verifier::make(b"pencil", &salt, 4096).unwrap();
        let mut challenge =
            Challenge::new(First::parse(FIRST.as_bytes()).unwrap(), verifier, &[0; 18]);
        challenge.nonce = NONCE.to_owned();
        challenge.server_first = format!("r={NONCE},s={SALT},i=4096");
        challenge
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let challenge = example();
        assert_eq!(challenge.name(), "user");
        assert_eq!(
            challenge.verify(FINAL.as_bytes()),
            Ok(SERVER_FINAL.to_owned())
        );
    }

    #[test]
    fn every_changed_byte_of_the_final_message_is_refused() {
        let challenge = example();
        for at in 0..FINAL.len() {
            let mut message = FINAL.as_bytes().to_vec();
            message[at] ^= 1;
            assert!(challenge.verify(&message).is_err(), "{at}");
        }
        for cut in 0..FINAL.len() {
            assert!(challenge.verify(&FINAL.as_bytes()[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn first_messages_that_are_not_understood_are_refused() {
        for (message, word) in [
            ("", "GS2"),
            ("n,n=user,r=abcdefgh", "GS2"),
            ("x,,n=user,r=abcdefgh", "GS2"),
            ("n,b=x,n=user,r=abcdefgh", "GS2"),
            ("p=tls-exporter,,n=user,r=abcdefgh", "channel binding"),
            ("n,,m=x,n=user,r=abcdefgh", "extension"),
            ("n,,r=abcdefgh", "user name"),
            ("n,,n=,r=abcdefgh", "escaped"),
            ("n,,n=a=b,r=abcdefgh", "escaped"),
            ("n,,n=user", "nonce"),
            ("n,,n=user,r=short", "nonce"),
            ("n,,n=user,r=ab cdefgh", "nonce"),
            ("n,,n=us\0er,r=abcdefgh", "text"),
        ] {
            let why = First::parse(message.as_bytes()).unwrap_err();
            assert!(why.contains(word), "{message:?}: {why}");
        }
        let long = format!("n,,n={},r=abcdefgh", "u".repeat(MAX_MESSAGE));
        assert!(First::parse(long.as_bytes()).is_err());
        assert!(First::parse(b"n,,n=\xff,r=abcdefgh").is_err());

        let first = First::parse(b"y,a=o=2Cther,n=a=2Cb=3Dc,r=abcdefgh,ext=1").unwrap();
        assert_eq!(&*first.name, "a,b=c");
        assert_eq!(first.authorization.as_deref(), Some("o,ther"));
    }

    #[test]
    fn a_verifier_survives_being_written_and_read_and_odd_ones_are_refused() {
        let verifier = Verifier::make(b"secret", b"0123456789abcdef", 4096).unwrap();
        let text = verifier.text();
        assert_eq!(Verifier::parse(&text), Ok(verifier));
        for (broken, word) in [
            (String::new(), "five"),
            (text.replace("scram-sha-256", "scram-sha-1"), "begin"),
            (text.replace("$4096$", "$4095$"), "iteration"),
            (text.replace("$4096$", "$04096$"), "iteration"),
            (text.replace("$4096$", "$1000001$"), "iteration"),
            (text.replace("MDEy", "!!!!"), "salt"),
            (format!("{text}x"), "key"),
            (format!("{text}$"), "five"),
            (text[..text.len() - 4].to_owned(), "key"),
        ] {
            let why = Verifier::parse(&broken).unwrap_err();
            assert!(why.contains(word), "{broken}: {why}");
        }
    }

    #[test]
    fn a_stranger_is_challenged_the_same_way_each_time_and_fits_nothing() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"of the process");
        let one = Verifier::of_stranger(&secret, "nobody", 4096);
        assert_eq!(one, Verifier::of_stranger(&secret, "nobody", 4096));
        assert_ne!(
            one.salt,
            Verifier::of_stranger(&secret, "nobody2", 4096).salt
        );
        assert_eq!(one.salt.len(), Verifier::SALT);
        // Well formed, so that nothing later tells it from a user's.
        assert_eq!(Verifier::parse(&one.text()), Ok(one));
    }

    #[test]
    fn passwords_are_prepared() {
        // RFC 4013, section 3: a soft hyphen is nothing, a Roman nine is IX.
        assert_eq!(&**prepare("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(&**prepare("\u{2168}".as_bytes()), b"IX");
        assert_eq!(&**prepare(b"\xff"), b"\xff");
        assert_eq!(&**prepare(b"\x07"), b"\x07");
    }
}
