//! How a blob is asked for and given: one request, one header, then the raw bytes; any number of
//! times on one stream.

use std::io;

use libp2p::StreamProtocol;

/// The protocol of blob streams.
pub(crate) const BLOB_PROTOCOL: StreamProtocol = StreamProtocol::new("/atoll/blob/1");

/// Longest manifest: a thousand layers with their tensors listed take a tenth of this.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 16 << 20;

pub(crate) const REQUEST_BYTES: usize = 48;
pub(crate) const HEADER_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"ablb";
const VERSION: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A blob, by the hash of its bytes.
    Blob,
    /// A manifest, by its model's id.
    Manifest,
}

/// "Send me the bytes from `offset` on."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) hash: [u8; 32],
    pub(crate) offset: u64,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// `total - offset` bytes follow.
    Found,
    /// It is not here.
    NotFound,
    /// Too many streams at once: try later or elsewhere.
    Busy,
}

/// What goes before the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) status: Status,
    /// Bytes of the whole, whatever the offset.
    pub(crate) total: u64,
}

fn invalid(cause: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

fn check_start(bytes: &[u8]) -> io::Result<()> {
    if bytes[..4] != MAGIC {
        return Err(invalid(format!("blob stream begins with {:02x?}", &bytes[..4])));
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(invalid(format!("blob stream of version {version}, not {VERSION}")));
    }
    Ok(())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a range of 8"))
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = match self.kind {
            Kind::Blob => 0,
            Kind::Manifest => 1,
        };
        bytes[8..40].copy_from_slice(&self.hash);
        bytes[40..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; REQUEST_BYTES]) -> io::Result<Self> {
        check_start(bytes)?;
        let kind = match bytes[6] {
            0 => Kind::Blob,
            1 => Kind::Manifest,
            other => return Err(invalid(format!("blob request of kind {other}"))),
        };
        let hash = bytes[8..40].try_into().expect("a range of 32");
        Ok(Self { kind, hash, offset: u64_at(bytes, 40) })
    }
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = match self.status {
            Status::Found => 0,
            Status::NotFound => 1,
            Status::Busy => 2,
        };
        bytes[8..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> io::Result<Self> {
        check_start(bytes)?;
        let status = match bytes[6] {
            0 => Status::Found,
            1 => Status::NotFound,
            2 => Status::Busy,
            other => return Err(invalid(format!("blob header of status {other}"))),
        };
        Ok(Self { status, total: u64_at(bytes, 8) })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn golden_request() {
        let request = Request { kind: Kind::Manifest, hash: [3; 32], offset: 0x0102 };
        let bytes = request.encode();
        assert_eq!(bytes[..8], *b"ablb\x01\0\x01\0");
        assert_eq!(bytes[8..40], [3; 32]);
        assert_eq!(bytes[40..], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Request::decode(&bytes).unwrap(), request);
    }

    #[test]
    fn headers_come_back() {
        for status in [Status::Found, Status::NotFound, Status::Busy] {
            let header = Header { status, total: u64::MAX };
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn other_versions_and_garbage_are_errors() {
        let mut bytes = Request { kind: Kind::Blob, hash: [0; 32], offset: 0 }.encode();
        bytes[4] = 9;
        assert!(Request::decode(&bytes).unwrap_err().to_string().contains("version 9"));
        assert!(Request::decode(&[0x41; REQUEST_BYTES]).is_err());
        assert!(Header::decode(&[0; HEADER_BYTES]).is_err());
    }
}
