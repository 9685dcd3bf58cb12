//! The body of a response whose pieces come as they come.

use bytes::Bytes;
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Pieces of a body.
pub(super) trait Pieces: Sized + Send + Unpin + 'static {
    /// Waits for the next piece. Returns none when there are no more.
    fn next(self) -> impl Future<Output = Option<(Bytes, Self)>> + Send;
}

/// A body that begins with a piece and goes on with others.
pub(super) struct PieceBody<P> {
    first: Option<Bytes>,
    next: NextPiece<P>,
}

type NextPiece<P> = Pin<Box<dyn Future<Output = Option<(Bytes, P)>> + Send>>;

impl<P: Pieces> PieceBody<P> {
    pub(super) fn new(first: Bytes, pieces: P) -> Self {
        Self { first: Some(first), next: Box::pin(pieces.next()) }
    }
}

impl<P: Pieces> http_body::Body for PieceBody<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some((piece, pieces)) = ready!(this.next.as_mut().poll(context)) else { return Poll::Ready(None) };
        this.next = Box::pin(pieces.next());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
