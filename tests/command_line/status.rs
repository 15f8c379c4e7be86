//! `clb status` where no agent answers, or something else does.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use crate::transcript::{assert_transcript, command};

#[test]
fn transcripts_of_status_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    drop(UnixListener::bind(folder.path().join("left.sock")).unwrap());
    for (name, words) in [
        ("drain-no-agent", "drain 10.0.1.11 --socket no-such.sock"),
        ("undrain-no-agent", "undrain [fd00::11]:80 --json --socket no-such.sock"),
        ("status-no-agent", "status --socket no-such.sock"),
        ("status-no-agent-json", "status --json --socket no-such.sock"),
        ("status-left-socket", "status --socket left.sock"),
        ("status-no-socket", "status --socket file"),
    ] {
        assert_transcript(name, folder.path(), words, b"");
    }
}

#[test]
fn transcripts_of_status_from_something_else() {
    let folder = tempfile::tempdir().unwrap();
    for (name, answer) in [
        ("status-hangs-up", ""),
        ("status-not-http", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("status-of-another-version", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
        ("status-refused", "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 14\r\n\r\nread a counter"),
    ] {
        let path = folder.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1_000]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_transcript(name, folder.path(), &format!("status --socket {name}"), b"");
        });
    }
}

/// The socket is open and nobody answers: a stopped agent.
#[test]
fn status_of_an_agent_that_hangs_ends() {
    let folder = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(folder.path().join("hangs.sock")).unwrap();
    let output = command(folder.path(), "status --socket hangs.sock").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error: the agent on hangs.sock does not answer") && said.contains("\nhelp: "), "{said}");
}
