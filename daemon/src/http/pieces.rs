//! Long JSON answers, made piece by piece as their clients take them: what is unread is what they are made from, and one piece.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use policy::engine::Part;

/// Pieces of one JSON text, in their order.
pub(crate) type Pieces = Box<dyn Iterator<Item = String> + Send>;

/// An answer of these pieces, with its length where there is only one. It holds its part of the room until it is sent, or its
/// client gone.
pub(crate) fn answer(mut pieces: Pieces, part: Part) -> Response {
    let (first, second) = (pieces.next(), pieces.next());
    let length = first.as_ref().filter(|_| second.is_none()).map(|piece| piece.len() as u64);
    let pieces = Box::new(first.into_iter().chain(second).chain(pieces));
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (json, Body::new(Unsent { pieces, length, _part: part })).into_response()
}

/// What is not yet sent of an answer.
struct Unsent {
    pieces: Pieces,
    /// Bytes left, where that is known.
    length: Option<u64>,
    _part: Part,
}

impl http_body::Body for Unsent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.length = self.length.map(|_| 0);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
