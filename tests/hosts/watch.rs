//! `clb run --watch`: the file is read again when it changes, however it is written.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
};

use clb_tests::{Agent, wait_until};

use crate::{
    config::{Listener, Mode},
    network::{Arms, Network, PATIENCE, log, wait_for_status},
};

fn file(network: &Network, listeners: u16) -> String {
    let listener = |number| {
        Listener::tcp(&format!("web-{number}"), &format!("203.0.113.10:{}", 80 + number), Mode::Nat, 80 + number, 1)
    };
    network.file(&(0..listeners).map(listener).collect::<Vec<_>>())
}

fn start(network: &Network, config: &Path) -> Agent {
    let mut agent = Agent::start(&network.lab, &network.balancer, config, &["--watch"]).unwrap();
    agent.wait_until_ready().unwrap();
    agent
}

fn wait_for_listeners(agent: &Agent, what: &str, number: u16) {
    wait_for_status(agent, what, |status| status.listeners.len() == usize::from(number));
}

#[test]
fn every_way_of_writing_takes_effect() {
    type Write = fn(&Path, &str);
    let ways: [(&str, Write); 4] = [
        ("in place", |path, text| fs::write(path, text).unwrap()),
        ("in two halves", |path, text| {
            let (first, second) = text.as_bytes().split_at(text.len() / 2);
            let mut file = File::create(path).unwrap();
            file.write_all(first).unwrap();
            file.sync_all().unwrap();
            file.write_all(second).unwrap();
        }),
        ("renamed over it", |path, text| {
            fs::write(path.with_extension("tmp"), text).unwrap();
            fs::rename(path.with_extension("tmp"), path).unwrap();
        }),
        ("as editors do", |path, text| {
            fs::rename(path, path.with_extension("yaml~")).unwrap();
            fs::write(path, text).unwrap();
            fs::remove_file(path.with_extension("yaml~")).unwrap();
        }),
    ];
    let network = Network::new(Arms::One, 1);
    fs::write(network.config(), file(&network, 1)).unwrap();
    let agent = start(&network, &network.config());
    for (number, (name, write)) in (2..).zip(ways) {
        write(&network.config(), &file(&network, number));
        wait_for_listeners(&agent, name, number);
    }
    // Each was read once, and none of them in the middle.
    assert_eq!(log(&agent).matches("read again").count(), ways.len(), "{}", log(&agent));
    assert!(!log(&agent).contains("stays"), "{}", log(&agent));
}

#[test]
fn a_mount_of_kubernetes_takes_effect() {
    let network = Network::new(Arms::One, 1);
    let mount = network.lab.directory().join("mount");
    let publish = |number: u16| {
        let version = format!("..{number}");
        fs::create_dir_all(mount.join(&version)).unwrap();
        fs::write(mount.join(&version).join("clb.yaml"), file(&network, number)).unwrap();
        symlink(&version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        if number > 1 {
            fs::remove_dir_all(mount.join(format!("..{}", number - 1))).unwrap();
        }
    };
    fs::create_dir(&mount).unwrap();
    publish(1);
    symlink("..data/clb.yaml", mount.join("clb.yaml")).unwrap();
    let agent = start(&network, &mount.join("clb.yaml"));
    for number in 2..5 {
        publish(number);
        wait_for_listeners(&agent, "the new version is in force", number);
    }
}

#[test]
fn a_bad_file_changes_nothing_and_the_next_good_one_takes_effect() {
    let network = Network::new(Arms::One, 1);
    fs::write(network.config(), file(&network, 2)).unwrap();
    let agent = start(&network, &network.config());
    let refusals = |number: usize| {
        wait_until("the refusal is in the log", PATIENCE, || {
            Ok(log(&agent).matches("in force stays").count() == number)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", log(&agent)));
        assert_eq!(agent.status().unwrap().listeners.len(), 2);
    };
    let good = file(&network, 3);
    fs::write(network.config(), &good[..good.len() - 4]).unwrap();
    refusals(1);
    fs::remove_file(network.config()).unwrap();
    refusals(2);
    fs::write(network.config(), good).unwrap();
    wait_for_listeners(&agent, "the good file is in force", 3);
}

#[test]
fn the_file_that_is_applied_is_watched_from_then_on() {
    let network = Network::new(Arms::One, 1);
    fs::write(network.config(), file(&network, 1)).unwrap();
    let agent = start(&network, &network.config());
    let applied = network.lab.directory().join("applied.yaml");
    fs::write(&applied, file(&network, 2)).unwrap();
    let mut apply = std::process::Command::new(crate::binary::clb());
    apply.args(["apply", "--socket"]).arg(agent.socket()).arg(&applied);
    assert!(apply.output().unwrap().status.success());
    // The one before is not the agent's any more; the log would tell of it before it tells of the other.
    fs::write(network.config(), "bad").unwrap();
    fs::write(&applied, file(&network, 3)).unwrap();
    wait_for_listeners(&agent, "the applied file is read again", 3);
    assert!(!log(&agent).contains("stays"), "{}", log(&agent));
}
