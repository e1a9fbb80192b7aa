//! A real HTTP server for the tests, which does what it is told: answer, be slow, be wrong, be huge
//! or be dead.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use parking_lot::Mutex;
use portcullis_auth::Url;
use tokio::net::TcpListener;

/// How a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// With status 200 and this.
    Say(Vec<u8>),
    /// With another status.
    Status(u16),
    /// With status 302 to the same server, where the right answer would be.
    Redirect,
    /// Never.
    Slow,
    /// By closing.
    HangUp,
    /// With a head that promises more than comes.
    BreakOff,
    /// Without end.
    Huge,
}

pub(crate) fn say(text: impl Into<String>) -> Play {
    Play::Say(text.into().into_bytes())
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

#[derive(Default)]
struct Script {
    next: VecDeque<Play>,
    always: Option<Play>,
    asked: Vec<Request>,
}

/// The server; ends with its runtime.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::default(),
        };
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&server.script));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}/x?y=z", self.address)).unwrap()
    }

    /// How every request is answered from now on.
    pub(crate) fn always(&self, play: Play) {
        self.script.lock().always = Some(play);
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.script.lock().asked)
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let play = {
        let mut script = script.lock();
        script.asked.push(Request {
            path: uri.to_string(),
            headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        script.next.pop_front().or_else(|| script.always.clone())
    };
    let with = |status: u16, body| {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    match play {
        None => with(500, Body::empty()),
        Some(Play::Say(bytes)) => with(200, bytes.into()),
        Some(Play::Status(status)) => with(status, Body::empty()),
        Some(Play::Redirect) => {
            let mut response = with(302, Body::empty());
            let to = "/elsewhere".parse().unwrap();
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        Some(Play::Slow) => std::future::pending().await,
        // The fault comes before anything was sent.
        Some(Play::HangUp) => with(200, Body::new(Chunks(0))),
        Some(Play::BreakOff) => {
            let mut response = with(200, Body::new(Chunks(2)));
            let length = "100000".parse().unwrap();
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        }
        Some(Play::Huge) => with(200, Body::new(Chunks(usize::MAX))),
    }
}

/// So many chunks, the last of them empty, and then a fault.
struct Chunks(usize);

impl axum::body::HttpBody for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        if self.0 == 0 {
            return std::task::Poll::Ready(Some(Err(std::io::Error::other("cut"))));
        }
        self.0 -= 1;
        if self.0 == 0 {
            // What came before goes out first.
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        let chunk = Bytes::from_static(&[b' '; 4096]);
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(chunk))))
    }
}
