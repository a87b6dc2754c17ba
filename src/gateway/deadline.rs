//! The deadline of a try up to the header of its final answer: what Pingora can't keep, since its time-outs begin anew with every read, so that a
//! header that drips and interim answers never trip them.
//! It travels in the thread that polls the request, as the connection does. When it passes, the try's connection is shut down for reading and
//! writing, Pingora finds its end, and `missed` says why. Not here: gaps and speed of a body (`flow.rs`), and which time is left (`exchange.rs`).

use std::cell::Cell;
use std::future::Future;
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::time::Sleep;

use crate::record::Timeout;

/// What the request that is being polled waits for.
#[derive(Clone, Copy)]
struct Watch {
    state: State,
    /// The connection of the try, where it belongs to this try alone. Known to be open from `connected` to `answered` or `ended`, which Pingora calls
    /// without giving the thread away in between.
    socket: Option<RawFd>,
}

#[derive(Clone, Copy)]
enum State {
    /// No try is waiting for a header.
    Off,
    /// A try has a connection, and the request is not complete yet.
    Sending,
    /// The header has to be complete by then.
    Until(Instant, Timeout),
    /// It was not.
    Missed(Timeout),
}

const OFF: Watch = Watch { state: State::Off, socket: None };

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(OFF) };
}

/// A try has a connection; none where others share it, so that it can't be shut down.
pub(super) fn connected(socket: Option<RawFd>) {
    WATCH.set(Watch { state: State::Sending, socket });
}

/// The request is sent: now its answer is waited for, unless it has come already.
pub(super) fn sent(until: Instant, timeout: Timeout) {
    let watch = WATCH.get();
    if matches!(watch.state, State::Sending) {
        WATCH.set(Watch { state: State::Until(until, timeout), ..watch });
    }
}

/// The try waits for a header no more: it came, or the try is over. Which time-out it had missed, if it had.
pub(super) fn ended() -> Option<Timeout> {
    match WATCH.replace(OFF).state {
        State::Missed(timeout) => Some(timeout),
        State::Off | State::Sending | State::Until(..) => None,
    }
}

/// Wakes the task of a connection. Set anew for each of its requests a timer would cost more than the rest: an early one stays, and what it is early
/// for is looked at when it rings.
#[derive(Default)]
pub(super) struct Alarm(Option<(Pin<Box<Sleep>>, Waker)>);

impl Alarm {
    fn has_rung(&self) -> bool {
        self.0.as_ref().is_some_and(|(sleep, _)| sleep.is_elapsed())
    }

    /// Rings at `until` at the latest, for the task that polls.
    fn ring(&mut self, until: Instant, cx: &mut Context<'_>) {
        let deadline = tokio::time::Instant::from_std(until);
        let (sleep, waker) =
            self.0.get_or_insert_with(|| (Box::pin(tokio::time::sleep_until(deadline)), Waker::noop().clone()));
        if waker.will_wake(cx.waker()) && !sleep.is_elapsed() && sleep.deadline() <= deadline {
            return;
        }
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        waker.clone_from(cx.waker());
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Runs one request; a try of it that does not have its header in time loses its connection.
pub(super) async fn with_deadline<F: Future>(alarm: &mut Alarm, request: F) -> F::Output {
    let mut request = pin!(request);
    let mut watch = OFF;
    std::future::poll_fn(|cx| {
        if alarm.has_rung() {
            watch = watch.looked_at(Instant::now());
        }
        WATCH.set(watch);
        let polled = request.as_mut().poll(cx);
        watch = WATCH.replace(OFF);
        if let (Poll::Pending, State::Until(until, _)) = (&polled, watch.state) {
            alarm.ring(until, cx);
        }
        polled
    })
    .await
}

impl Watch {
    fn looked_at(self, now: Instant) -> Self {
        match self.state {
            State::Until(until, timeout) if until <= now => {
                if let Some(socket) = self.socket {
                    // It fails where the other end was faster, and then its end is found, too.
                    let _ = shutdown(socket, Shutdown::Both);
                }
                Self { state: State::Missed(timeout), ..self }
            }
            State::Off | State::Sending | State::Until(..) | State::Missed(_) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    #[tokio::test]
    async fn a_header_that_drips_does_not_move_the_deadline() {
        let (mut ours, mut theirs) = pair().await;
        let dripping = tokio::spawn(async move {
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let begun = Instant::now();
        let missed = with_deadline(&mut Alarm::default(), async {
            connected(Some(ours.as_raw_fd()));
            sent(Instant::now() + Duration::from_millis(200), Timeout::Response);
            let mut bytes = [0; 16];
            while ours.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
            ended()
        })
        .await;
        assert_eq!(missed, Some(Timeout::Response));
        assert!(begun.elapsed() >= Duration::from_millis(200));
        dripping.await.unwrap();
    }

    #[tokio::test]
    async fn one_alarm_serves_request_after_request_and_rings_for_the_last() {
        let mut alarm = Alarm::default();
        for millis in [60_000, 100, 60_000, 300] {
            let (mut ours, _theirs) = pair().await;
            let begun = Instant::now();
            let missed = with_deadline(&mut alarm, async {
                connected(Some(ours.as_raw_fd()));
                sent(begun + Duration::from_millis(millis), Timeout::Route);
                if millis < 60_000 {
                    let _ = ours.read_u8().await;
                } else {
                    tokio::task::yield_now().await;
                }
                ended()
            })
            .await;
            assert_eq!(missed.is_some(), millis < 60_000);
            assert!(missed.is_none() || begun.elapsed() >= Duration::from_millis(millis));
        }
    }

    #[tokio::test]
    async fn an_answer_before_the_request_is_complete_ends_the_wait() {
        let (ours, _theirs) = pair().await;
        with_deadline(&mut Alarm::default(), async {
            connected(Some(ours.as_raw_fd()));
            assert_eq!(ended(), None);
            sent(Instant::now(), Timeout::Response);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(ended(), None);
        })
        .await;
    }
}
