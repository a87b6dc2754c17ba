//! The codings themselves, at levels for bytes that are compressed while a client waits and others wait for the same thread.
//! Windows are small: an encoder's memory is held for as long as its answer takes.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

use crate::config::Coding;

/// From 1 MiB on this level of brotli takes tables of 7 MB instead of 1.6.
const BROTLI_HINT_MAX: usize = (1 << 20) - 1;

/// Of 9.
const GZIP_LEVEL: u32 = 4;
/// Of 11.
const BROTLI_LEVEL: i32 = 4;
/// Of 22.
const ZSTD_LEVEL: i32 = 3;

/// How far back a repetition is seen, as a power of two: 256 KiB (gzip: 32 KiB). What is told to be shorter takes less.
const WINDOW_LOG: u32 = 18;

/// Bytes that brotli hands out at once.
const BROTLI_BUFFER_BYTES: usize = 4_096;

/// One body in one coding; what is coded is taken out after each piece.
pub(super) enum Encoder {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::Encoder<'static, Vec<u8>>>),
}

impl Encoder {
    /// For a body of `length` bytes, where that is known.
    pub fn begin(coding: Coding, length: Option<u64>) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL)))),
            Coding::Br => {
                let params = BrotliEncoderParams {
                    quality: BROTLI_LEVEL,
                    lgwin: WINDOW_LOG as i32,
                    size_hint: length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0).min(BROTLI_HINT_MAX),
                    ..BrotliEncoderParams::default()
                };
                Self::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER_BYTES, &params)))
            }
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
                encoder.set_pledged_src_size(length)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// What is coded with this piece; all that has come, where it is flushed.
    pub fn write(&mut self, piece: &[u8], flush: bool) -> io::Result<Bytes> {
        match self {
            Self::Gzip(encoder) => {
                add(&mut **encoder, piece, flush)?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
            Self::Brotli(encoder) => {
                add(&mut **encoder, piece, flush)?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
            Self::Zstd(encoder) => {
                add(&mut **encoder, piece, flush)?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }

    /// The rest, this last piece and the end of the coding.
    pub fn finish(mut self, piece: &[u8]) -> io::Result<Bytes> {
        match &mut self {
            Self::Gzip(encoder) => encoder.write_all(piece)?,
            Self::Brotli(encoder) => encoder.write_all(piece)?,
            Self::Zstd(encoder) => encoder.write_all(piece)?,
        }
        let rest = match self {
            Self::Gzip(encoder) => encoder.finish()?,
            // Without its own end a stream of brotli is one that was cut.
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Zstd(encoder) => encoder.finish()?,
        };
        Ok(rest.into())
    }
}

fn add(encoder: &mut impl Write, piece: &[u8], flush: bool) -> io::Result<()> {
    encoder.write_all(piece)?;
    if flush { encoder.flush() } else { Ok(()) }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Brotli(_) => "Brotli",
            Self::Zstd(_) => "Zstd",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;

    use super::*;

    fn reader(coding: Coding, coded: &[u8]) -> Box<dyn Read + '_> {
        match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
            Coding::Br => Box::new(brotli::Decompressor::new(coded, 4_096)),
            Coding::Zstd => Box::new(zstd::Decoder::new(coded).unwrap()),
        }
    }

    /// The whole; none where it is not whole.
    pub fn decode(coding: Coding, coded: &[u8]) -> Option<Vec<u8>> {
        let mut decoded = Vec::new();
        reader(coding, coded).read_to_end(&mut decoded).ok().map(|_| decoded)
    }

    /// What can be decoded of a beginning.
    pub fn decode_start(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let (mut decoded, mut reader) = (Vec::new(), reader(coding, coded));
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            decoded.extend_from_slice(&buffer[..count]);
        }
        decoded
    }

    #[test]
    fn a_cut_body_has_no_end() {
        let text = b"{\"name\": \"value\"}".repeat(1_000);
        for coding in [Coding::Gzip, Coding::Br, Coding::Zstd] {
            let mut encoder = Encoder::begin(coding, None).unwrap();
            let mut coded = encoder.write(&text, true).unwrap().to_vec();
            drop(encoder);
            assert_eq!(decode(coding, &coded), None, "{coding}");
            let mut encoder = Encoder::begin(coding, None).unwrap();
            coded = encoder.write(&text, true).unwrap().to_vec();
            coded.extend_from_slice(&encoder.finish(b"").unwrap());
            assert_eq!(decode(coding, &coded).unwrap(), text, "{coding}");
            assert!(coded.len() < text.len() / 20, "{coding}: {} bytes", coded.len());
        }
    }
}
