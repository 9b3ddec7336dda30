use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use base::{Base, Shares, Stream, Tasks, Tls};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::Config;
use crate::around::Arrival;
use crate::extract::Peer;
use crate::forwarded::seen;
use crate::framing::Framing;
use crate::socket::{Activity, Held, Socket};

/// Hyper keeps a whole header in one buffer, and asks for at least this much.
const HEADER_BYTES_MIN: usize = 8 << 10;
/// How long to wait when the machine has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers HTTP/1.1 and HTTP/2 (by ALPN, without TLS by prior knowledge) until shutdown, then lets open requests end
/// within `drain_time_max` and closes what is left.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    config: Config,
    base: Base,
) {
    let stopping = base.tasks.stopping();
    let most = u32::try_from(config.connections_max).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(most as usize));
    let peers = Shares::new(config.connections_per_peer_max, config.unlimited_peers());
    let config = Arc::new(config);
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stopping.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                base.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(share) = peers.take(peer.ip()) else {
            base.metrics.refused_connection("http");
            tracing::debug!(%peer, "a connection is closed: its address has too many");
            continue;
        };
        let stream = match Stream::accepted(stream, tls.as_ref()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was lost before its first request");
                continue;
            }
        };
        let (router, config, base) = (router.clone(), config.clone(), base.clone());
        base.clone().tasks.spawn("http_connection", async move {
            connection(stream, peer, router, &config, &base).await;
            drop((place, share));
        });
    }
    drop(listener);
    // Every place is free again when every connection has ended; each bounds itself.
    let _all = room.acquire_many(most).await;
}

async fn connection(
    stream: Stream,
    peer: SocketAddr,
    router: Router,
    config: &Arc<Config>,
    base: &Base,
) {
    let from = (peer.ip(), stream.is_tls());
    let activity = Arc::new(Activity::default());
    let socket = Socket::new(stream, base.clock.clone(), config.write_time_max, activity.clone());
    let service = service_fn({
        let (activity, config) = (activity.clone(), config.clone());
        move |mut request: hyper::Request<Incoming>| {
            let answering = activity.begin();
            let (client, is_secured) = seen(request.headers(), from, &config.trusted_proxies);
            let framing = Framing::of(&request);
            request.extensions_mut().insert(Peer(client));
            request.extensions_mut().insert(Arrival { is_secured, framing });
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let mut response = answer.await.unwrap_or_else(|never| match never {});
                framing.finish(&mut response);
                Ok::<_, Infallible>(response.map(|body| Held { body, answering }))
            }
        }
    });
    let builder = builder(config, &base.tasks);
    let mut connection =
        Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(socket), service));

    let stopping = base.tasks.stopping();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = idle(&activity, config.header_read_time_max, base) => return,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = base.clock.sleep(config.drain_time_max) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// Is ready when nothing was asked or answered for a whole period: what hyper's own timer does not see,
/// which starts only when it is clear which version of HTTP is spoken.
async fn idle(activity: &Activity, period: Duration, base: &Base) {
    let mut before = activity.look();
    loop {
        base.clock.sleep(period).await;
        let now = activity.look();
        if !now.0 && now == before {
            return;
        }
        before = now;
    }
}

fn builder(config: &Config, tasks: &Tasks) -> Builder<Spawner> {
    let mut builder = Builder::new(Spawner(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_time_max)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .max_headers(config.header_count_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(config.connection_requests_max);
    builder
}

/// Lets HTTP/2 run its streams as named tasks.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.spawn("http_stream", work);
    }
}
