//! Compression in the exchange: what the phases ask the route's policy, with what this request has chosen.
//! Which answers are compressed, and how, is decided in `policy/compress`.

use bytes::Bytes;
use http::StatusCode;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::config::Coding;
use crate::policy::compress::{Compress, CompressedBody};

/// What is known of it in one exchange so far.
#[derive(Debug, Default)]
pub(super) struct Compressing {
    /// What the client gets where its answer is compressed.
    coding: Option<Coding>,
    /// The answer of the last try, where it is compressed.
    body: Option<Box<CompressedBody>>,
}

impl Exchange {
    fn compress(&self) -> Option<&Compress> {
        self.admitted.as_ref()?.route.compress.as_ref()
    }

    /// Chooses the coding, before anything else reads what the client accepts.
    ///
    /// # Errors
    /// Pingora's, when a header can't be set.
    pub(super) fn choose_coding(&mut self, session: &mut Session) -> Result<()> {
        if let Some(compress) = self.compress() {
            self.compressing.coding = compress.choose(session.req_header_mut())?;
        }
        Ok(())
    }

    /// The header of a final answer came. One that came on an earlier try is forgotten.
    ///
    /// # Errors
    /// Pingora's, when a header can't be set.
    pub(super) fn compress_answer(&mut self, session: &Session, answer: &mut ResponseHeader) -> Result<()> {
        let Some(compress) = self.compress() else { return Ok(()) };
        if answer.status == StatusCode::NOT_MODIFIED {
            let stored = session.cache.maybe_cache_meta().map(|meta| meta.headers());
            return compress.confirm(stored, self.compressing.coding, &session.req_header().headers, answer);
        }
        self.compressing.body = compress.begin(self.compressing.coding, answer)?.map(Box::new);
        Ok(())
    }

    /// A piece of its body came.
    ///
    /// # Errors
    /// Where the body does not end as it was announced: then neither does what the client gets.
    pub(super) fn compress_piece(&mut self, piece: &mut Option<Bytes>, end: bool) -> Result<()> {
        let Some(body) = &mut self.compressing.body else { return Ok(()) };
        body.replace(piece, end).map_err(|error| Error::because(ErrorType::ReadError, "compressing", error).into_up())
    }

    /// Trailers came: the body should have ended before.
    ///
    /// # Errors
    /// Where it has not been told so, as HTTP/2 may do: what the encoder still holds can't be sent any more.
    pub(super) fn compressed_all(&self) -> Result<()> {
        match &self.compressing.body {
            Some(body) if !body.is_ended() => {
                Err(Error::explain(ErrorType::ReadError, "unannounced trailers after a compressed body").into_up())
            }
            _ => Ok(()),
        }
    }
}
