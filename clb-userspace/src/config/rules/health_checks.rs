//! The rules for health checks: ranges that hang on each other, types that fit the protocol, and keys that fit the type.

use std::time::Duration;

use clb_common::Protocol;
use hyper::{header::HeaderValue, http::uri::PathAndQuery};

use super::{
    super::{
        document::shortened,
        health_check::{CheckType, HealthCheck, HealthCheckKind, HttpCheck, Payload, Statuses, UdpCheck},
        problem::{Code, Collected, Place, Problem},
        reader::Seconds,
        written::{self, Field, Given},
    },
    listeners::protocol_name,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_THRESHOLD: u8 = 3;
const DEFAULT_PATH: &str = "/";
/// Says in the backend's log whose datagram it is.
const DEFAULT_PAYLOAD: &str = "clb";

/// The value, or one that it needs, is wrong and reported.
pub struct Wrong;

/// Whether and how the backends of a listener are checked.
pub fn check(listener: &written::Listener<'_>, problems: &mut Collected) -> Result<Option<HealthCheck>, Wrong> {
    let check = match listener.health_check {
        Field::Absent => return Ok(None),
        Field::Wrong => return Err(Wrong),
        Field::Given(check) => check.value,
    };
    let interval = check.interval.or(DEFAULT_INTERVAL);
    let timeout = check.timeout.or(DEFAULT_TIMEOUT);
    if let (Some(interval), Some(timeout)) = (interval, timeout)
        && timeout >= interval
        && let Some(written) = check.timeout.given().or(check.interval.given())
    {
        let (interval, timeout) = (Seconds(interval), Seconds(timeout));
        let message = format!("the timeout of {timeout} is not below the interval of {interval}");
        let help = format!("write an `interval` above {timeout}, or a shorter `timeout`");
        problems.push(Problem::new(Code::HealthCheckRange, written.place, message, help));
    }
    let Given { value: kind, place } = check.kind.given().ok_or(Wrong)?;
    let Some(kind) = kind else { return Ok(None) };
    let kind = Given { value: kind, place };
    let protocol = listener.protocol.given().ok_or(Wrong)?;
    fits_the_protocol(kind, protocol, problems);
    has_its_own_keys(kind, &check, problems);
    Ok(Some(HealthCheck {
        kind: asked(kind.value, &check, problems).ok_or(Wrong)?,
        interval: interval.ok_or(Wrong)?,
        timeout: timeout.ok_or(Wrong)?,
        healthy: check.healthy.or(DEFAULT_THRESHOLD).ok_or(Wrong)?,
        unhealthy: check.unhealthy.or(DEFAULT_THRESHOLD).ok_or(Wrong)?,
    }))
}

fn fits_the_protocol(kind: Given<CheckType>, protocol: Given<Protocol>, problems: &mut Collected) {
    let (fits, instead) = match protocol.value {
        Protocol::Tcp => (matches!(kind.value, CheckType::Tcp | CheckType::Http), "`tcp` or `http`"),
        Protocol::Udp => (matches!(kind.value, CheckType::Udp | CheckType::Icmp), "`udp` or `icmp`"),
    };
    if !fits {
        let of = protocol_name(protocol.value);
        let message = format!("a {of} listener has no health check of this type");
        let help = format!("write {instead}, or `none` for no checks");
        problems.push(
            Problem::new(Code::HealthCheckType, kind.place, message, help)
                .label(protocol.place, format!("a {of} listener")),
        );
    }
}

fn has_its_own_keys(kind: Given<CheckType>, check: &written::HealthCheck<'_>, problems: &mut Collected) {
    fn place<T: Copy>(field: &Field<T>) -> Option<Place> {
        field.given().map(|given| given.place)
    }
    let keys = [
        ("method", place(&check.method), CheckType::Http, "http"),
        ("path", place(&check.path), CheckType::Http, "http"),
        ("host", place(&check.host), CheckType::Http, "http"),
        ("status", place(&check.status), CheckType::Http, "http"),
        ("send", place(&check.send), CheckType::Udp, "udp"),
        ("expect", place(&check.expect), CheckType::Udp, "udp"),
    ];
    for (key, place, of, name) in keys {
        if let Some(place) = place
            && of != kind.value
        {
            let message = format!("`{key}` belongs to health checks of type `{name}`");
            let help = format!("remove `{key}`, or write `type: {name}`");
            problems.push(
                Problem::new(Code::HealthCheckType, place, message, help).label(kind.place, "the type of this one"),
            );
        }
    }
}

fn asked(kind: CheckType, check: &written::HealthCheck<'_>, problems: &mut Collected) -> Option<HealthCheckKind> {
    match kind {
        CheckType::Tcp => Some(HealthCheckKind::Tcp),
        CheckType::Icmp => Some(HealthCheckKind::Icmp),
        CheckType::Http => {
            let path = valid(check.path, problems, |path| {
                let is_path = path.starts_with('/') && !path.contains('#') && path.parse::<PathAndQuery>().is_ok();
                (!is_path).then(|| {
                    let help =
                        "begin it with `/`, and write other characters than letters and digits as in a URL: `%20`";
                    (format!("`{}` is no path", shortened(path)), help)
                })
            });
            let host = valid(check.host, problems, |host| {
                let is_host = host.bytes().all(|byte| byte.is_ascii_graphic()) && HeaderValue::from_str(host).is_ok();
                (!is_host).then(|| {
                    (format!("`{}` is no host", shortened(host)), "write a name such as `shop.example`, or an address")
                })
            });
            let (path, host) = (path.ok()?, host.ok()?);
            Some(HealthCheckKind::Http(HttpCheck {
                method: check.method.or_default()?,
                path: path.unwrap_or(DEFAULT_PATH).into(),
                host: host.map(Into::into),
                status: check.status.or(Statuses::DEFAULT)?,
            }))
        }
        CheckType::Udp => {
            let send = payload(check.send, problems);
            let expect = payload(check.expect, problems);
            let (send, expect) = (send.ok()?, expect.ok()?);
            Some(HealthCheckKind::Udp(UdpCheck { send: send.or_else(|| DEFAULT_PAYLOAD.parse().ok())?, expect }))
        }
    }
}

/// What was written, if something was.
fn payload(field: Field<&str>, problems: &mut Collected) -> Result<Option<Payload>, Wrong> {
    let text = valid(field, problems, |text| {
        let problem = text.parse::<Payload>().err()?;
        let help =
            "write at most 512 bytes, and `\\xHH` for a byte, `\\n` for the end of a line, `\\\\` for a backslash";
        Some((format!("this payload cannot be sent: {problem}"), help))
    });
    text.map(|text| text.and_then(|text| text.parse().ok()))
}

/// As [`payload`], where `problem` says what is wrong with the text and what to write.
fn valid<'t>(
    field: Field<&'t str>,
    problems: &mut Collected,
    problem: impl FnOnce(&str) -> Option<(String, &'static str)>,
) -> Result<Option<&'t str>, Wrong> {
    match field {
        Field::Absent => Ok(None),
        Field::Wrong => Err(Wrong),
        Field::Given(Given { value, place }) => match problem(value) {
            None => Ok(Some(value)),
            Some((message, help)) => {
                problems.push(Problem::new(Code::HealthCheckRange, place, message, help));
                Err(Wrong)
            }
        },
    }
}
