//! Runs a plan: hosts, time, faults, and the oracle's questions.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use diffluent::lag::{RegionLag, State as LagState};
use diffluent::mirror::identity::is_reserved;
use diffluent_testbed::model::group::Phase;
use diffluent_testbed::model::{Model, State, serve_connection};
use tokio::task::JoinSet;
use turmoil::{Builder, Sim};

use super::oracle::{Oracle, comes_again};
use super::plan::{Fault, Plan, ProxyId, Route, TROUBLE_MS};
use super::producer;
use super::proxy::{self, Fronts, SESSION, Seen, Site, broker_host, region_name};

/// When the simulated time begins, milliseconds since the epoch.
const EPOCH_MS: i64 = 1_800_000_000_000;
const TICK: Duration = Duration::from_millis(4);
/// After the trouble everything must come to rest within this time, milliseconds: a connection that died without a word is found after 45 s.
const SETTLED_WITHIN_MS: u64 = 180_000;
/// A run takes about a second of real time.
const LONG: Duration = Duration::from_secs(60);
/// A proxy that ends in order has ended by then, milliseconds.
const STOPPED_WITHIN_MS: u64 = 6_000;
/// Several proxies mirror the same stream for no longer than this, milliseconds: a session, and the time that it takes to join and to show it.
const SHARED_FOR_MS: u64 = SESSION.as_millis() as u64 + 5_000;
/// A proxy that others have been told is none of theirs any more mirrors for no longer than this, milliseconds: its lease is over by then, and that shows a moment later.
const STRANGER_FOR_MS: u64 = SESSION.as_millis() as u64 + 1_000;
/// How often transactions are ended that nobody ends any more, milliseconds.
const REST_EVERY_MS: u64 = 20_000;
/// In a partition with more records than this it is looked for some that go around.
const MANY: i64 = 50_000;
/// No record comes into a partition so often, unless it goes around.
const GOES_AROUND: usize = 4;
/// How often the oracle looks, milliseconds.
const LOOK_EVERY_MS: u64 = 1_000;

/// How often a long run says how far it is, seeds.
const TELL_EVERY: usize = 500;

/// A topic's name.
pub fn topic_name(topic: usize) -> String {
    format!("topic-{topic}")
}

/// The group of the proxies that mirror to a region.
fn group_name(region: usize) -> String {
    format!("diffluent.{}", region_name(region))
}

/// Runs plans, on all cores; gives the seeds of the failed ones with what went wrong.
pub fn all(plans: &[Plan], run: impl Fn(&Plan) -> Result<(), String> + Sync) -> Vec<(u64, String)> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let begun = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(begun) else { break };
                    if begun > 0 && begun.is_multiple_of(TELL_EVERY) {
                        eprintln!("{begun} of {} seeds", plans.len());
                    }
                    let seed = plan.seed;
                    let outcome = watched(seed, || catch_unwind(AssertUnwindSafe(|| run(plan))));
                    let why = match outcome {
                        Ok(Ok(())) => continue,
                        Ok(Err(why)) => why,
                        Err(panic) => panic
                            .downcast_ref::<String>()
                            .cloned()
                            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                            .unwrap_or_else(|| "a panic".to_owned()),
                    };
                    eprintln!("seed {seed}: {why}\n  {}", plan.command());
                    failed.lock().expect("nobody panicked").push((seed, why));
                    if std::env::var_os("DIFFLUENT_STOP_AT_FIRST").is_some() {
                        next.store(plans.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("nobody panicked");
    failed.sort();
    failed
}

/// Says so when a seed takes very long: something turns round at one moment of simulated time.
fn watched<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    let (done, ended) = std::sync::mpsc::sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("seed {seed} takes more than {LONG:?}");
            }
        });
        let result = run();
        drop(done);
        result
    })
}

/// Simulated time in front of a line of the log.
struct SimulatedTime;

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{:>9.3}", turmoil::sim_elapsed().unwrap_or_default().as_secs_f64())
    }
}

/// Logs what diffluent says, as `DIFFLUENT_LOG` asks.
pub fn tell_story() {
    if let Ok(filter) = std::env::var("DIFFLUENT_LOG") {
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime).with_writer(std::io::stderr);
        // Another test of this binary may have begun it.
        let _ = log.try_init();
    }
}

struct World<'a> {
    plan: Arc<Plan>,
    sim: Sim<'a>,
    now: Arc<AtomicI64>,
    clusters: Vec<Arc<Model>>,
    seen: BTreeMap<ProxyId, Seen>,
    stops: BTreeMap<ProxyId, Arc<AtomicBool>>,
    /// Proxies that do not run, or are about to end.
    down: BTreeSet<ProxyId>,
    /// Routes whose proxies have shared their streams out.
    shared: BTreeSet<Route>,
    /// Since when a stream has several owners, milliseconds.
    shared_since: BTreeMap<(Route, String, i32), u64>,
    /// Since when proxies mirror though the group is settled without them.
    strange_since: BTreeMap<((Route, String, i32), ProxyId), u64>,
    oracle: Oracle,
    mends: Vec<(u64, Mend)>,
}

/// What a proxy shows of a partition.
#[derive(Debug)]
struct Shown {
    proxy: ProxyId,
    /// Records that it is behind.
    records: u64,
    /// The first source offset that is not done.
    next: i64,
    state: LagState,
}

impl Shown {
    fn is_stalled(&self) -> bool {
        self.state == LagState::Stalled
    }
}

enum Mend {
    Broker(usize, i32),
    Proxy(ProxyId),
    Line(String, String),
    Release(String, String),
    CutOff(ProxyId),
    Replicas(usize),
}

/// Runs a plan to its end.
///
/// # Errors
/// What the oracle found.
pub fn run(plan: &Plan) -> Result<(), String> {
    let _among_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    align_task_ids();
    World::new(plan).run()
}

/// Runs a plan until the lag that the cluster's first proxy shows is as wanted, and `more_ms` from then on; gives the batches that were born elsewhere in a cluster's first
/// partition, then and at the end.
///
/// # Errors
/// What is shown instead, after two simulated minutes.
pub fn run_until(
    plan: &Plan,
    wanted: impl Fn(&[RegionLag]) -> bool,
    more_ms: u64,
    cluster: usize,
) -> Result<(usize, usize), String> {
    let _among_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new(plan);
    let seen = world.seen[&ProxyId { cluster, number: 0 }].clone();
    let count = |world: &World| {
        let state = world.clusters[cluster].look();
        let partition = state.partition(&topic_name(0), 0);
        let batches = partition.iter().flat_map(|partition| partition.batches());
        batches.filter(|batch| is_reserved(batch.producer_id)).count()
    };
    let mut then = None;
    loop {
        world.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        let at = world.elapsed_ms();
        world.now.store(EPOCH_MS + at as i64, Ordering::Relaxed);
        match then {
            Some((since, before)) if at > since + more_ms => return Ok((before, count(&world))),
            Some(_) => {}
            None if wanted(&seen.lock().expect("nobody panicked")) => {
                then = Some((at, count(&world)));
            }
            None if at > 120_000 => return Err(world.told()),
            None => {}
        }
    }
}

/// A runtime ends its tasks by their ids modulo this (or by fewer).
const TASK_SHARDS: u64 = 64;

/// What runs takes it for reading, what must run alone for writing.
static ALONE: RwLock<()> = RwLock::new(());

/// Lets the next task's id be a multiple of [`TASK_SHARDS`], if nobody else makes tasks.
fn align_task_ids() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let next_id = || runtime.block_on(async { tokio::spawn(async {}).id().to_string().parse::<u64>() });
    while next_id().expect("tasks are numbered") % TASK_SHARDS != TASK_SHARDS - 1 {}
}

/// A number that stands for everything that was written in a run, and when.
///
/// A process that is killed lets go of its connections in an order that hangs on its tasks' ids, which the test process counts. So nothing else may run at the same time
/// where this number is to be the same.
pub fn trace(plan: &Plan) -> u64 {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    align_task_ids();
    let mut world = World::new(plan);
    let outcome = world.run();
    let mut hasher = DefaultHasher::new();
    outcome.hash(&mut hasher);
    for cluster in &world.clusters {
        for topic in cluster.look().topics.values() {
            for batch in topic.partitions.iter().flat_map(|partition| partition.batches()) {
                (batch.appended_at, &batch.bytes).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

impl World<'_> {
    fn new(plan: &Plan) -> Self {
        let plan = Arc::new(plan.clone());
        let mut sim = Builder::new()
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(3))
            .tcp_capacity(4096)
            .rng_seed(plan.seed)
            .build();
        let now = Arc::new(AtomicI64::new(EPOCH_MS));
        let mut clusters = Vec::new();
        for (cluster, brokers) in plan.brokers.iter().enumerate() {
            let mut state =
                State::new(&format!("cluster-{cluster}"), *brokers, |node_id| (broker_host(cluster, node_id), 9092));
            let brokers_are = plan.brokers_are[cluster];
            state.refuses_foreign_ids = brokers_are.refuse_foreign_ids;
            state.describes_producers = !brokers_are.describe_no_producers;
            state.producer_expiration = brokers_are.forget_after_ms;
            if plan.origins.contains(&cluster) {
                for (topic, partitions) in plan.topics.iter().enumerate() {
                    state.create_topic(&topic_name(topic), *partitions, -1).expect("a new topic");
                }
            }
            let clock = now.clone();
            let model = Model::new(state, move || clock.load(Ordering::Relaxed));
            for node_id in 1..=*brokers {
                let model = model.clone();
                sim.host(broker_host(cluster, node_id), move || broker(model.clone(), node_id));
            }
            clusters.push(model);
        }
        let (mut seen, mut stops) = (BTreeMap::new(), BTreeMap::new());
        let fronts = Fronts::default();
        for proxy in plan.proxies() {
            let site =
                Site { plan: plan.clone(), proxy, seen: Seen::default(), fronts: fronts.clone(), stop: Arc::default() };
            seen.insert(proxy, site.seen.clone());
            stops.insert(proxy, site.stop.clone());
            sim.host(proxy.to_string(), move || proxy::run(site.clone()));
        }
        for index in 0..plan.producers.len() {
            let model = clusters[plan.producers[index].cluster].clone();
            sim.client(format!("producer-{index}"), producer::run(plan.clone(), index, model));
        }
        let distance = Duration::from_millis(plan.distance_ms);
        for proxy in plan.proxies() {
            for other in plan.proxies().into_iter().filter(|other| other.cluster > proxy.cluster) {
                sim.set_link_latency(proxy.to_string(), other.to_string(), distance);
            }
            for (cluster, brokers) in plan.brokers.iter().enumerate().filter(|(cluster, _)| *cluster != proxy.cluster) {
                for node_id in 1..=*brokers {
                    sim.set_link_latency(proxy.to_string(), broker_host(cluster, node_id), distance);
                }
            }
        }
        let oracle = Oracle::new(clusters.clone(), plan.clone());
        Self {
            plan,
            sim,
            now,
            clusters,
            seen,
            stops,
            down: BTreeSet::new(),
            shared: BTreeSet::new(),
            shared_since: BTreeMap::new(),
            strange_since: BTreeMap::new(),
            oracle,
            mends: Vec::new(),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run(&mut self) -> Result<(), String> {
        let mut faults = self.plan.faults.clone().into_iter().peekable();
        let mut next_look = LOOK_EVERY_MS;
        let mut next_rest = TROUBLE_MS + 4_000;
        let mut rested = false;
        loop {
            self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
            let at = self.elapsed_ms();
            self.now.store(EPOCH_MS + at as i64, Ordering::Relaxed);
            while let Some((_, fault)) = faults.next_if(|(due, _)| *due <= at) {
                self.inflict(fault, at);
            }
            let (due, later) = std::mem::take(&mut self.mends).into_iter().partition(|(due, _)| *due <= at);
            self.mends = later;
            self.mend(due);
            if at < next_look {
                continue;
            }
            next_look += LOOK_EVERY_MS;
            self.look()?;
            if at > TROUBLE_MS + 4_000 {
                if !std::mem::replace(&mut rested, true) {
                    let all = std::mem::take(&mut self.mends);
                    self.mend(all);
                }
                // A producer's last requests may come late.
                if at >= next_rest {
                    self.rest();
                    next_rest += REST_EVERY_MS;
                }
                match self.is_settled() {
                    Ok(()) => return Ok(()),
                    Err(why) if at > TROUBLE_MS + SETTLED_WITHIN_MS => {
                        return Err(format!("{why}\n  {}\n  {:?}", self.told(), self.plan));
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Nothing goes wrong from here on.
    fn rest(&self) {
        for cluster in &self.clusters {
            cluster.change(|state, now| {
                state.mishaps.clear();
                state.each_partition(|partition| {
                    // A transaction whose producer is gone is aborted by its coordinator.
                    let open: Vec<(i64, i16)> = (partition.producers().all())
                        .filter(|(_, producer)| producer.transaction.is_some())
                        .map(|(id, producer)| (id, producer.epoch))
                        .collect();
                    open.into_iter().for_each(|(id, epoch)| partition.end_transaction(id, epoch, false, now));
                });
            });
        }
    }

    /// What diffluent says must be true at any moment.
    fn look(&mut self) -> Result<(), String> {
        for cluster in &self.clusters {
            let mut goes_around = None;
            cluster.change(|state, now| {
                state.each_partition(|partition| {
                    partition.replicate(now);
                    if partition.end() > MANY {
                        let again = || comes_again(partition).filter(|(_, often)| *often >= GOES_AROUND);
                        goes_around = goes_around.or_else(again);
                    }
                });
            });
            if let Some((number, often)) = goes_around {
                return Err(format!("a partition has record {number} {often} times: it goes around"));
            }
        }
        for (route, topic, partition) in self.ways() {
            let key = (group_name(route.to), topic.clone(), partition);
            let committed = self.clusters[route.from].look().offsets.get(&key).cloned();
            if let Some(committed) = committed {
                let who = "the committed progress";
                self.oracle.is_done_before(route, &topic, partition, committed.offset, who)?;
            }
            let shown = self.shown(route, &topic, partition);
            for shown in &shown {
                let who = format!("/lag of {}", shown.proxy);
                let told = self.oracle.is_done_before(route, &topic, partition, shown.next, &who);
                told.map_err(|why| format!("{why}: {}", self.told()))?;
            }
            // Two that start at the same moment both mirror everything until the group has a generation; and what was said is a moment old.
            let at = self.elapsed_ms();
            let key = (route, topic, partition);
            let mirrors = |shown: &Shown| matches!(shown.state, LagState::Mirroring | LagState::CatchingUp);
            if shown.iter().filter(|shown| mirrors(shown)).count() < 2 || !self.has_shared(route) {
                self.shared_since.remove(&key);
            } else if at - *self.shared_since.entry(key.clone()).or_insert(at) > SHARED_FOR_MS {
                return Err(format!("{key:?}: mirrored by several proxies for longer than a session: {}", self.told()));
            }
            for shown in &shown {
                let stranger = (key.clone(), shown.proxy);
                if !mirrors(shown) || !self.is_stranger(route, shown.proxy) {
                    self.strange_since.remove(&stranger);
                } else if at - *self.strange_since.entry(stranger).or_insert(at) > STRANGER_FOR_MS {
                    let (proxy, told) = (shown.proxy, self.told());
                    return Err(format!("{key:?}: {proxy} mirrors it, and the others' group is without it: {told}"));
                }
            }
        }
        Ok(())
    }

    /// Whether the group of a route's proxies had a generation with its assignment: before that all of them mirror everything, which takes as long as the coordinator is away.
    fn has_shared(&mut self, route: Route) -> bool {
        let stable = self.clusters[route.from]
            .change(|state, now| state.group(&group_name(route.to), now).phase() == Phase::Stable);
        if stable {
            self.shared.insert(route);
        }
        self.shared.contains(&route)
    }

    /// Whether the proxies that share a route have settled that without this one.
    fn is_stranger(&self, route: Route, proxy: ProxyId) -> bool {
        if !self.plan.has_fleet() {
            // A proxy alone has a name that is not its host's here.
            return false;
        }
        self.clusters[route.from].change(|state, now| {
            let group = state.group(&group_name(route.to), now);
            let names: Option<Vec<&str>> = group.members().values().map(|member| member.instance.as_deref()).collect();
            group.phase() == Phase::Stable && names.is_some_and(|names| !names.contains(&proxy.to_string().as_str()))
        })
    }

    /// Each partition on each route.
    fn ways(&self) -> Vec<(Route, String, i32)> {
        let mut ways = Vec::new();
        for &route in &self.plan.routes {
            for (topic, known) in &self.clusters[route.from].look().topics {
                ways.extend((0..).zip(&known.partitions).map(|(partition, _)| (route, topic.clone(), partition)));
            }
        }
        ways
    }

    /// What the proxies of a route's cluster show of a partition.
    fn shown(&self, route: Route, topic: &str, partition: i32) -> Vec<Shown> {
        let mut shown = Vec::new();
        for (proxy, seen) in self.seen.iter().filter(|(proxy, _)| proxy.cluster == route.from) {
            let seen = seen.lock().expect("nobody panicked");
            let region = seen.iter().filter(|lag| lag.region == region_name(route.to));
            let topics = region.flat_map(|region| &region.topics).filter(|lag| lag.topic == topic);
            let partitions = topics.flat_map(|topic| &topic.partitions).filter(|lag| lag.partition == partition);
            shown.extend(partitions.map(|lag| Shown {
                proxy: *proxy,
                records: lag.lag_records,
                next: lag.next_source_offset,
                state: lag.state,
            }));
        }
        shown
    }

    fn told(&self) -> String {
        let mut told = String::new();
        for (proxy, seen) in &self.seen {
            for region in seen.lock().expect("nobody panicked").iter() {
                for topic in &region.topics {
                    for partition in &topic.partitions {
                        told += &format!(
                            "\n  {proxy} to {} {}-{}: {:?} lag {} next {} {}",
                            region.region,
                            topic.topic,
                            partition.partition,
                            partition.state,
                            partition.lag_records,
                            partition.next_source_offset,
                            partition.reason.as_deref().unwrap_or_default()
                        );
                    }
                }
            }
        }
        told
    }

    fn is_settled(&mut self) -> Result<(), String> {
        self.oracle.nothing_came_home()?;
        for stream in self.oracle.streams() {
            let route = Route { from: stream.origin, to: stream.region };
            let waits_for_a_person = self.plan.may_need_a_person(route)
                && self.shown(route, &stream.topic, stream.partition).iter().any(Shown::is_stalled);
            if !waits_for_a_person {
                self.oracle.compare(&stream)?;
            }
        }
        for (route, topic, partition) in self.ways() {
            match self.shown(route, &topic, partition).as_slice() {
                [Shown { records: 0, state: LagState::Mirroring, .. }] => {}
                [shown] if shown.is_stalled() && self.plan.may_need_a_person(route) => {}
                other => return Err(format!("{route:?} {topic}-{partition}: equal, but what is shown is {other:?}")),
            }
        }
        Ok(())
    }

    fn inflict(&mut self, fault: Fault, at: u64) {
        tracing::info!(target: "simulation", at, ?fault);
        match fault {
            Fault::BrokerDown { cluster, node_id, for_ms } => {
                self.clusters[cluster].change(|state, now| state.crash(node_id, now));
                self.mends.push((at + for_ms, Mend::Broker(cluster, node_id)));
            }
            Fault::ProxyDown { proxy, for_ms } => {
                if self.kill(proxy) {
                    self.mends.push((at + for_ms, Mend::Proxy(proxy)));
                }
            }
            Fault::ProxyGone { proxy } => {
                if !self.kill(proxy) {
                    // It ends for good while it is down already.
                    self.mends.retain(|(_, mend)| !matches!(mend, Mend::Proxy(down) if *down == proxy));
                }
            }
            Fault::ProxyStop { proxy, for_ms } => {
                if self.down.insert(proxy) {
                    self.stops[&proxy].store(true, Ordering::Relaxed);
                    self.mends.push((at + STOPPED_WITHIN_MS + for_ms, Mend::Proxy(proxy)));
                }
            }
            Fault::CutOff { proxy, there, back, for_ms } => {
                self.clusters[proxy.cluster].change(|state, _| {
                    state.unheard.extend(there.then(|| proxy.to_string()));
                    state.unanswered.extend(back.then(|| proxy.to_string()));
                });
                self.mends.push((at + for_ms, Mend::CutOff(proxy)));
            }
            Fault::StandsStill { proxy, for_ms } => {
                for (cluster, brokers) in self.plan.brokers.iter().enumerate() {
                    for node_id in 1..=*brokers {
                        let (proxy, broker) = (proxy.to_string(), broker_host(cluster, node_id));
                        self.sim.hold(proxy.as_str(), broker.as_str());
                        self.mends.push((at + for_ms, Mend::Release(proxy, broker)));
                    }
                }
            }
            Fault::CoordinatorDown { cluster, for_ms } => {
                let coordinator = self.clusters[cluster].look().coordinator();
                if let Some(node_id) = coordinator {
                    self.clusters[cluster].change(|state, now| state.crash(node_id, now));
                    self.mends.push((at + for_ms, Mend::Broker(cluster, node_id)));
                }
            }
            Fault::Cut { proxy, cluster, node_id, there, back, for_ms } => {
                let (proxy, broker) = (proxy.to_string(), broker_host(cluster, node_id));
                if there {
                    self.sim.partition_oneway(proxy.as_str(), broker.as_str());
                }
                if back {
                    self.sim.partition_oneway(broker.as_str(), proxy.as_str());
                }
                self.mends.push((at + for_ms, Mend::Line(proxy, broker)));
            }
            Fault::Hold { proxy, cluster, node_id, for_ms } => {
                let (proxy, broker) = (proxy.to_string(), broker_host(cluster, node_id));
                self.sim.hold(proxy.as_str(), broker.as_str());
                self.mends.push((at + for_ms, Mend::Release(proxy, broker)));
            }
            Fault::Reset { cluster, node_id } => {
                self.clusters[cluster].change(|state, _| state.cut_connections(node_id));
            }
            Fault::Move { cluster, topic, partition } => {
                self.clusters[cluster].change(|state, now| {
                    if let Some(partition) = state.partition_mut(&topic_name(topic), partition) {
                        let next = partition.in_sync().into_iter().find(|node_id| *node_id != partition.leader);
                        if let Some(next) = next {
                            partition.move_leader(next, now);
                        }
                    }
                });
            }
            Fault::SlowReplicas { cluster, delay_ms, for_ms } => {
                self.clusters[cluster].change(|state, _| {
                    state.replication_delay = delay_ms;
                    state.each_partition(|partition| partition.set_delay(delay_ms));
                });
                self.mends.push((at + for_ms, Mend::Replicas(cluster)));
            }
            Fault::Mishap { cluster, api_key, mishap, times } => {
                self.clusters[cluster].change(|state, _| state.mishaps.insert(api_key, (mishap, times)));
            }
            Fault::Forget { cluster } => {
                self.clusters[cluster].change(|state, _| {
                    state.each_partition(|partition| partition.expire_producers(i64::MAX));
                });
            }
            Fault::Unclean { cluster, topic, partition, back } => {
                let model = &self.clusters[cluster];
                self.oracle.note_cut(cluster, || {
                    model.change(|state, now| {
                        if let Some(partition) = state.partition_mut(&topic_name(topic), partition) {
                            let next = partition.replicas().into_iter().find(|node_id| *node_id != partition.leader);
                            if let Some(next) = next {
                                partition.unclean_election(next, partition.high_watermark() - back, now);
                            }
                        }
                    });
                });
            }
            Fault::ProgressLost { cluster, region } => {
                let group = group_name(region);
                self.clusters[cluster].change(|state, _| state.offsets.retain(|(known, ..), _| *known != group));
            }
            Fault::Retention { cluster, topic, partition } => {
                let model = &self.clusters[cluster];
                self.oracle.note_retention(cluster, || {
                    model.change(|state, _| {
                        if let Some(partition) = state.partition_mut(&topic_name(topic), partition) {
                            let middle = (partition.start + partition.high_watermark()) / 2;
                            partition.delete_before(middle);
                        }
                    });
                });
            }
            Fault::Grow { cluster, topic } => {
                self.clusters[cluster].change(|state, _| {
                    let name = topic_name(topic);
                    // A topic that was not mirrored here yet can't grow.
                    let Some(has) = state.topics.get(&name).map(|topic| topic.partitions.len()) else { return };
                    let replicas = state.replication_factor;
                    state.add_partitions(&name, i32::try_from(has + 1).expect("small"), replicas);
                });
            }
        }
    }

    /// Kills a proxy that runs.
    fn kill(&mut self, proxy: ProxyId) -> bool {
        let runs = self.down.insert(proxy);
        if runs {
            self.sim.crash(proxy.to_string());
            self.seen[&proxy].lock().expect("nobody panicked").clear();
        }
        runs
    }

    fn mend(&mut self, mends: Vec<(u64, Mend)>) {
        for (_, mend) in mends {
            match mend {
                Mend::Broker(cluster, node_id) => self.clusters[cluster].change(|state, now| state.start(node_id, now)),
                Mend::Proxy(proxy) => {
                    self.seen[&proxy].lock().expect("nobody panicked").clear();
                    self.stops[&proxy].store(false, Ordering::Relaxed);
                    self.down.remove(&proxy);
                    self.sim.bounce(proxy.to_string());
                }
                Mend::CutOff(proxy) => self.clusters[proxy.cluster].change(|state, _| {
                    state.unheard.remove(&proxy.to_string());
                    state.unanswered.remove(&proxy.to_string());
                }),
                Mend::Line(one, other) => self.sim.repair(one.as_str(), other.as_str()),
                Mend::Release(one, other) => self.sim.release(one.as_str(), other.as_str()),
                Mend::Replicas(cluster) => self.clusters[cluster].change(|state, _| {
                    state.replication_delay = 0;
                    state.each_partition(|partition| partition.set_delay(0));
                }),
            }
        }
    }
}

/// A model broker as a simulated host.
async fn broker(model: Arc<Model>, node_id: i32) -> turmoil::Result {
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", 9092)).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let model = model.clone();
        connections.spawn(async move { serve_connection(&model, node_id, stream).await });
        while connections.try_join_next().is_some() {}
    }
}
