//! Accepts connections, and closes those on which no request arrives.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long to wait for others to close when the process has as many files open as it may.
const CROWDED: Duration = Duration::from_secs(1);

/// Answers with `routes` until `stopped`, then finishes the requests that have begun. A connection is closed if the head of a
/// request, the first or a further one, is not complete after `patience`.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    patience: Duration,
    stopped: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let connections = GracefulShutdown::new();
    let mut stopped = pin!(stopped);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut stopped => break,
        };
        // A token is sent when it is there, not when the last one was acknowledged; a system without this option only waits.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(routes.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        // It ends with an error if the client leaves or is too slow, which concerns nobody else.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    connections.shutdown().await;
}

/// The next connection. Those that broke before they were taken are passed over.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(_) => tokio::time::sleep(CROWDED).await,
        }
    }
}
