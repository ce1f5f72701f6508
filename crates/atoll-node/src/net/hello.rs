//! The first bytes on every stream of ours, both ways.
//!
//! An inbound stream may be dropped by the receiver's library after the opener was told that it
//! stands, so a stream counts as open only when the other side has answered in our own words.

use std::io;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;

/// The version of everything that is said after the hello.
pub(crate) const WIRE_VERSION: u16 = 3;
/// Opening, hello and answer together.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: [u8; 4] = *b"atll";

/// A random name that a process takes at its start: tells a restarted peer from a doubled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) [u8; 16]);

/// The answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Go on.
    Welcome,
    /// Another version is spoken here.
    WrongVersion,
    /// Another live node with the speaker's identity is connected.
    IdentityInUse,
}

impl Answer {
    const ALL: [Self; 3] = [Self::Welcome, Self::WrongVersion, Self::IdentityInUse];

    const fn code(self) -> u8 {
        match self {
            Self::Welcome => 0,
            Self::WrongVersion => 1,
            Self::IdentityInUse => 2,
        }
    }
}

/// Opener: says hello and waits for the answer.
pub(crate) async fn greet(stream: &mut Stream, me: Incarnation) -> io::Result<Answer> {
    stream.write_all(&encode_hello(WIRE_VERSION, me)).await?;
    stream.flush().await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    decode_answer(answer)
}

/// Acceptor: hears the hello. The version is the speaker's.
pub(crate) async fn hear(stream: &mut Stream) -> io::Result<(u16, Incarnation)> {
    let mut hello = [0; 22];
    stream.read_exact(&mut hello).await?;
    decode_hello(hello)
}

/// Acceptor: answers.
pub(crate) async fn answer(stream: &mut Stream, answer: Answer) -> io::Result<()> {
    stream.write_all(&encode_answer(answer)).await?;
    stream.flush().await
}

fn encode_hello(version: u16, Incarnation(name): Incarnation) -> [u8; 22] {
    let mut bytes = [0; 22];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    bytes[6..].copy_from_slice(&name);
    bytes
}

fn decode_hello(bytes: [u8; 22]) -> io::Result<(u16, Incarnation)> {
    let (version, name) = split_magic(&bytes)?;
    Ok((version, Incarnation(name.try_into().expect("22 bytes less 6 are 16"))))
}

fn encode_answer(answer: Answer) -> [u8; 7] {
    let mut bytes = [0; 7];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    bytes[6] = answer.code();
    bytes
}

fn decode_answer(bytes: [u8; 7]) -> io::Result<Answer> {
    let (_, rest) = split_magic(&bytes)?;
    Answer::ALL
        .into_iter()
        .find(|answer| answer.code() == rest[0])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown answer to hello"))
}

fn split_magic(bytes: &[u8]) -> io::Result<(u16, &[u8])> {
    if bytes[..4] != MAGIC {
        let cause = format!("stream begins with {:02x?}", &bytes[..4]);
        return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
    }
    Ok((u16::from_le_bytes([bytes[4], bytes[5]]), &bytes[6..]))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn golden_bytes() {
        let name = Incarnation([9; 16]);
        let bytes = encode_hello(0x0201, name);
        assert_eq!(bytes[..6], *b"atll\x01\x02");
        assert_eq!(bytes[6..], [9; 16]);
        assert_eq!(decode_hello(bytes).unwrap(), (0x0201, name));
        assert_eq!(encode_answer(Answer::IdentityInUse), *b"atll\x03\0\x02");
    }

    #[test]
    fn answers_come_back_and_garbage_does_not() {
        for answer in Answer::ALL {
            assert_eq!(decode_answer(encode_answer(answer)).unwrap(), answer);
        }
        assert!(decode_answer(*b"atll\x03\0\x63").is_err());
        assert!(decode_answer(*b"HTTP/1.").is_err());
    }
}
