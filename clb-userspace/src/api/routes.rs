//! What is asked by which path, and how it is answered: JSON, but for metrics and the health of the data path.
//!
//! A request becomes an event of the agent's loop; nothing is decided here.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError, mpsc, oneshot, watch},
    time::{Duration, timeout},
};

use super::{
    APPLY_PATH, CONFIG_PATH, DRAIN_PATH, DataPath, Drained, EXPLAIN_PATH, METRICS_PATH, NoBackend, Proposal,
    RELOAD_PATH, Request, STATUS_PATH, Status, Terms, Text, UNDRAIN_PATH,
    connections::{Answer, CLIENT_PATIENCE, Stage},
};
use crate::{complaint::Complaint, config::MAX_FILE_BYTES, metrics};

/// A path that is answered.
#[derive(Debug)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: Method,
    /// With its version, so that another meaning can get another path.
    pub path: &'static str,
    /// What the request carries.
    pub question: &'static str,
    /// What comes back.
    pub answer: &'static str,
}

/// What is answered on the agent's socket, for `docs/api.md`. A test asks each.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: STATUS_PATH,
        question: "",
        answer: "what `clb status --json` prints: what is balanced, the counters, the agent, its reloads",
    },
    Route {
        method: Method::GET,
        path: CONFIG_PATH,
        question: "",
        answer: "the configuration in force, as meant: with every default, in an order of its own",
    },
    Route {
        method: Method::POST,
        path: APPLY_PATH,
        question: "the text of a configuration as the body. In the query, each may be left out: `name`, what problems call it; \
                   `file`, the absolute path of a file with the same text, which becomes the agent's own; `max_moved`, in \
                   percent, as `--max-moved`; `color=always`, for `rendered`",
        answer: "when it is in force: `plan` (as `clb plan --format json`), `seconds`, `configuration`, `file` (what SIGHUP \
                 reads), `file_is_new`, `warnings`, `rendered`. Refused: 422 with `error`, `problems` (as \
                 `clb check --format json`) and `rendered`; 409 with `error` if it is not the text",
    },
    Route {
        method: Method::POST,
        path: RELOAD_PATH,
        question: "the agent's own file is read again; the query as before, of which `name` and `file` say nothing here",
        answer: "as before",
    },
    Route {
        method: Method::POST,
        path: EXPLAIN_PATH,
        question: "`protocol`, `from`, `to` and `payload`, as the options of `clb explain`",
        answer: "what `clb explain --json` prints",
    },
    Route {
        method: Method::POST,
        path: DRAIN_PATH,
        question: "`address` and `port` of backends that shall get no new flows; without `port`, every one of the address",
        answer: "when that is so: `drained`, `changed` (false if it was so before), `asked`, `backends` with their listeners, and \
                 `warnings`. Of a backend: `share`; `flows` that are known to be left; `drain_seconds`, in which others may \
                 show themselves; `is_empty`, once none is left and none can come. 422 with `error` if there is no such backend",
    },
    Route {
        method: Method::POST,
        path: UNDRAIN_PATH,
        question: "as before, of backends that shall get their share again; without `port`, also those that were drained by it",
        answer: "as before",
    },
    Route {
        method: Method::GET,
        path: METRICS_PATH,
        question: "",
        answer: "the metrics, as [on TCP](metrics.md): text and no JSON",
    },
];

/// Answers on the socket of the agent's owner.
#[derive(Clone)]
pub(super) struct ForCommands {
    pub requests: mpsc::Sender<Request>,
    /// Bytes of configurations that are received at a time.
    pub room: Arc<Semaphore>,
}

/// Answers whoever can reach the address.
#[derive(Clone)]
pub(super) struct ForMonitoring {
    pub requests: mpsc::Sender<Request>,
    pub data_path: watch::Receiver<DataPath>,
    pub scrapes: Arc<Semaphore>,
}

impl Answer for ForCommands {
    async fn answer(&self, request: HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        self.route(request).await.unwrap_or_else(Failure::into_response)
    }
}

impl ForCommands {
    async fn route(&self, request: HttpRequest<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let requests = &self.requests;
        match (request.method(), request.uri().path()) {
            (&Method::GET, STATUS_PATH) => Ok(as_json(StatusCode::OK, &ask(requests, Request::Status).await?)),
            (&Method::GET, CONFIG_PATH) => Ok(as_json(StatusCode::OK, &ask(requests, Request::Config).await?)),
            (&Method::GET, METRICS_PATH) => metrics(requests).await,
            (&Method::POST, EXPLAIN_PATH) => {
                let question = self.question(request).await?;
                let explanation = ask(requests, |answer| Request::Explain(question, answer)).await?;
                Ok(as_json(StatusCode::OK, &explanation))
            }
            (&Method::POST, DRAIN_PATH) => {
                let drain = self.question(request).await?;
                drained(ask(requests, |answer| Request::Drain(drain, answer)).await?)
            }
            (&Method::POST, UNDRAIN_PATH) => {
                let drain = self.question(request).await?;
                drained(ask(requests, |answer| Request::Undrain(drain, answer)).await?)
            }
            (&Method::POST, APPLY_PATH) => {
                let terms = terms(&request)?;
                let Body { bytes, room: _held } =
                    self.body(request, LONGEST_CONFIGURATION, CONFIGURATION_PATIENCE).await?;
                self.apply(Proposal { text: Text::Sent(bytes), terms }).await
            }
            (&Method::POST, RELOAD_PATH) => self.apply(Proposal { text: Text::OwnFile, terms: terms(&request)? }).await,
            _ => Err(Failure(StatusCode::NOT_FOUND, anyhow!("no such thing here"))),
        }
    }

    /// Reads a question.
    async fn question<T: DeserializeOwned>(&self, request: HttpRequest<Incoming>) -> Result<T, Failure> {
        let body = self.body(request, LONGEST_QUESTION, CLIENT_PATIENCE).await?;
        let question = serde_json::from_slice(&body.bytes).context("the question is of another version of clb");
        question.map_err(|error| Failure(StatusCode::BAD_REQUEST, error))
    }

    /// Reads what a client sends, of which there may not be too much, and not too slowly.
    async fn body(&self, request: HttpRequest<Incoming>, most: usize, patience: Duration) -> Result<Body<'_>, Failure> {
        let too_large = || Failure(StatusCode::PAYLOAD_TOO_LARGE, anyhow!("the body has more than {most} bytes"));
        if request.body().size_hint().lower() > most as u64 {
            return Err(too_large());
        }
        let stage = request.extensions().get::<Stage>().cloned().unwrap_or_default();
        stage.waiting();
        let receiving = async {
            let mut incoming = Limited::new(request.into_body(), most);
            let mut body = Body { bytes: Vec::new(), room: self.room.try_acquire_many(0).map_err(no_room)? };
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| {
                    let unreadable = || Failure(StatusCode::BAD_REQUEST, anyhow!("the body cannot be read: {error}"));
                    if error.is::<LengthLimitError>() { too_large() } else { unreadable() }
                })?;
                if let Ok(data) = frame.into_data() {
                    body.room.merge(self.room.try_acquire_many(data.len() as u32).map_err(no_room)?);
                    body.bytes.extend_from_slice(&data);
                }
            }
            Ok(body)
        };
        let received = timeout(patience, receiving).await;
        stage.answering();
        received.map_err(|_| Failure(StatusCode::REQUEST_TIMEOUT, anyhow!("the body does not come to its end")))?
    }

    async fn apply(&self, proposal: Proposal) -> Result<Response<Full<Bytes>>, Failure> {
        Ok(match hand_over(&self.requests, |answer| Request::Apply(proposal, answer)).await? {
            Ok(applied) => as_json(StatusCode::OK, &applied),
            Err(refusal) if refusal.problems.is_empty() => as_json(StatusCode::CONFLICT, &refusal),
            Err(refusal) => as_json(StatusCode::UNPROCESSABLE_ENTITY, &refusal),
        })
    }
}

impl Answer for ForMonitoring {
    async fn answer(&self, request: HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        let data_path = self.data_path.borrow().clone();
        match (request.method(), request.uri().path(), data_path) {
            (&Method::GET, "/healthz", DataPath::Attached) => text(StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, "/healthz" | "/metrics", DataPath::Starting) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the agent is starting: nothing is attached yet\n".to_owned())
            }
            (&Method::GET, "/healthz", DataPath::Incomplete(reason)) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
            }
            (&Method::GET, "/metrics", _) => {
                let Ok(_turn) = self.scrapes.acquire().await else {
                    return text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n".to_owned());
                };
                metrics(&self.requests).await.unwrap_or_else(Failure::into_response)
            }
            _ => text(StatusCode::NOT_FOUND, "here are /metrics and /healthz\n".to_owned()),
        }
    }
}

/// What a client sent, and the room that it takes.
struct Body<'r> {
    bytes: Vec<u8>,
    room: SemaphorePermit<'r>,
}

fn no_room(_: TryAcquireError) -> Failure {
    let said = anyhow!("others are sending configurations\nhelp: try again when they are done");
    Failure(StatusCode::SERVICE_UNAVAILABLE, said)
}

/// Why there is no answer but this.
struct Failure(StatusCode, anyhow::Error);

impl Failure {
    fn ending(error: anyhow::Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.context("the agent is ending"))
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let Self(code, error) = self;
        as_json(code, &json!({ "error": Complaint::from(&error).to_string() }))
    }
}

async fn metrics(requests: &mpsc::Sender<Request>) -> Result<Response<Full<Bytes>>, Failure> {
    let status: Status = ask(requests, Request::Status).await?;
    let mut response = Response::new(Full::new(metrics::render(status).into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    Ok(response)
}

/// Hands the request to the loop, and waits for its answer.
async fn hand_over<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Failure> {
    let (sender, receiver) = oneshot::channel();
    requests.send(request(sender)).await.map_err(|error| Failure::ending(error.into()))?;
    receiver.await.map_err(|error| Failure::ending(error.into()))
}

/// The same for what may fail in the loop.
async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<anyhow::Result<T>>) -> Request,
) -> Result<T, Failure> {
    hand_over(requests, request).await?.map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error))
}

fn drained(done: Result<Drained, NoBackend>) -> Result<Response<Full<Bytes>>, Failure> {
    let done = done.map_err(|error| Failure(StatusCode::UNPROCESSABLE_ENTITY, error.into()))?;
    Ok(as_json(StatusCode::OK, &done))
}

fn terms(request: &HttpRequest<Incoming>) -> Result<Terms, Failure> {
    Terms::from_query(request.uri().query().unwrap_or_default())
        .map_err(|error| Failure(StatusCode::BAD_REQUEST, error.context("read the query")))
}

fn as_json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(code, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(code, "text/plain; charset=utf-8", text.into_bytes())
}

fn respond(code: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// In bytes.
const LONGEST_QUESTION: usize = 4_096;
/// One byte more than a file may have, so that what is too long is told as of a file.
pub(super) const LONGEST_CONFIGURATION: usize = MAX_FILE_BYTES + 1;
/// How long the text of a configuration may take to come.
const CONFIGURATION_PATIENCE: Duration = Duration::from_secs(30);
