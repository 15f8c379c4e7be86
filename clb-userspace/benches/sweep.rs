//! What a walk over the flows of `full_nat` costs, with a full table of the default size. Needs root.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, loaded_maps},
};
use clb_common::{Endpoint, Flow, FlowKey, ForwardingMode, NextHop, Port, Protocol, Return, ReturnKey, Seen};
use clb_userspace::{
    control::{DesiredListener, plan},
    dataplane::{Dataplane, ListenerId, Patience, Settings},
    slots::BackendId,
};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    runtime.block_on(measure());
}

async fn measure() {
    let (vip, backend) = (IpAddr::from([203, 0, 113, 10]), IpAddr::from([10, 0, 1, 11]));
    let id = ListenerId { vip, protocol: Protocol::Tcp, port: 80 };
    let weights = BTreeMap::from([(BackendId { address: backend, port: 80 }, 1)]);
    let listeners = BTreeMap::from([(id, DesiredListener::new(ForwardingMode::FullNat, 1_021, weights))]);
    let settings = Settings::default();
    let mut dataplane = Dataplane::load(settings, &listeners).expect("load the program: this needs root");
    let steps = plan(&listeners, &dataplane.actual());
    dataplane.apply(steps, &|_, _| NextHop::UNRESOLVED).await.expect("add the listener");

    let mut flows: HashMap<_, FlowKey, Flow> = newest("FLOWS");
    let mut returns: HashMap<_, ReturnKey, Return> = newest("RETURNS");
    let seen = Seen { tick: u32::MAX / 2, marks: Seen::ESTABLISHED };
    for number in 0..settings.max_flows {
        let client = IpAddr::from([10, 128 | (number >> 16) as u8, (number >> 8) as u8, number as u8]);
        let source = IpAddr::from([198, 51, 100, (number >> 16) as u8]);
        let port = number as u16;
        let key = FlowKey::new(Endpoint::of(Protocol::Tcp, (client, 40_000).into()), 0);
        let back = ReturnKey::new(Endpoint::of(Protocol::Tcp, (source, port).into()), backend.into(), Port::new(80));
        let way_back = Return::new(key, vip.into(), Port::new(80), 0, seen);
        flows.insert(key, Flow::new(source.into(), Port::new(port), 0, seen), 0).expect("room for a flow");
        returns.insert(back, way_back, 0).expect("room for a way back");
    }
    let now = clb_userspace::dataplane::now().expect("the clock");
    for (what, idle_timeout) in [("none is over", Some(Duration::from_mins(15))), ("all are over", None)] {
        let start = Instant::now();
        let swept = dataplane
            .sweep(now, |_| idle_timeout.map(|idle_timeout| Patience { idle_timeout, drain: Duration::ZERO }))
            .expect("the maps")
            .await
            .expect("its thread")
            .expect("the maps");
        dataplane.finish_sweep(swept).await.expect("the maps");
        let left = dataplane.counters().expect("the maps").flows;
        println!("{} flows, {what}: {:?}, {left} left", settings.max_flows, start.elapsed());
    }
}

/// The map of this name that was made last.
fn newest<K: Pod, V: Pod>(name: &str) -> HashMap<MapData, K, V> {
    let of_name = loaded_maps().flatten().filter(|map| map.name_as_str() == Some(name));
    let id = of_name.map(|map| map.id()).max().expect("the map of the program that was just loaded");
    Map::HashMap(MapData::from_id(id).expect("the map")).try_into().expect("a hash map")
}
