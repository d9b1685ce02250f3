//! What a seed means: the clusters, who mirrors to whom, who writes, and what goes wrong when.

use std::collections::BTreeMap;
use std::fmt;

use super::dice::Dice;

/// How long producers write and faults happen, milliseconds of simulated time.
pub const TROUBLE_MS: u64 = 20_000;

/// Groups have a generation by then, unless something goes wrong, milliseconds.
const FIRST_GENERATION_MS: u64 = 8_000;
/// When proxies begin side by side, milliseconds: there are records by then.
const TOGETHER_MS: u64 = 800;

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyId {
    /// Its cluster.
    pub cluster: usize,
    /// Which of the cluster's it is.
    pub number: usize,
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy-{}", self.cluster)?;
        if self.number > 0 { write!(f, "-{}", self.number) } else { Ok(()) }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number that it was drawn from.
    pub seed: u64,
    /// Several proxies a cluster were to be drawn.
    pub with_fleet: bool,
    /// Proxies of each cluster that has any; several share its streams.
    pub fleet: Vec<usize>,
    /// Proxies that start later than the others, milliseconds.
    pub late: BTreeMap<ProxyId, u64>,
    /// Streams begin at the end of the local log, not at its beginning.
    pub start_latest: bool,
    /// Brokers of each cluster.
    pub brokers: Vec<i32>,
    /// Clusters that producers write to.
    pub origins: Vec<usize>,
    /// Who mirrors to whom.
    pub routes: Vec<Route>,
    /// Clusters whose proxy also forwards what was born elsewhere.
    pub forwards: Vec<usize>,
    /// Whether a proxy reaches other clusters through their own proxies, where they have one.
    pub through_proxies: bool,
    /// One-way delay between clusters, milliseconds.
    pub distance_ms: u64,
    /// `[mirror] buffer`.
    pub buffer: &'static str,
    /// Partitions of each topic.
    pub topics: Vec<i32>,
    /// The producers.
    pub producers: Vec<ProducerPlan>,
    /// Faults by time, milliseconds.
    pub faults: Vec<(u64, Fault)>,
    /// What the brokers of each cluster are like.
    pub brokers_are: Vec<Brokers>,
}

/// What brokers are like that others are not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brokers {
    /// They take no producer id that they have not handed out.
    pub refuse_foreign_ids: bool,
    /// They don't know DescribeProducers.
    pub describe_no_producers: bool,
    /// They forget a producer so soon after its last record, milliseconds.
    pub forget_after_ms: Option<i64>,
}

/// The proxy of a cluster mirrors to another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The cluster of the proxy.
    pub from: usize,
    /// The cluster that gets it.
    pub to: usize,
}

/// How a producer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without idempotence, with these acks.
    Plain(i16),
    /// Tries a batch until it is acknowledged.
    Idempotent,
    /// Commits two of three transactions.
    Transactional,
}

/// A producer.
#[derive(Clone, Copy, Debug)]
pub struct ProducerPlan {
    /// The cluster that it writes to.
    pub cluster: usize,
    /// How.
    pub kind: Kind,
    /// Past the proxy.
    pub bypass: bool,
    /// Requests that it sends before it reads answers.
    pub pipelined: u64,
    /// The pause between two rounds, milliseconds.
    pub pause_ms: u64,
}

/// Something that goes wrong. Those with a time are mended after so many milliseconds.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A broker stops, and starts again.
    BrokerDown { cluster: usize, node_id: i32, for_ms: u64 },
    /// A proxy is killed, and started again.
    ProxyDown { proxy: ProxyId, for_ms: u64 },
    /// A proxy ends in order, and is started again.
    ProxyStop { proxy: ProxyId, for_ms: u64 },
    /// A proxy is killed for good: others of its cluster go on.
    ProxyGone { proxy: ProxyId },
    /// What a proxy says to its group's coordinator does not arrive, or what it is answered, or both. All else passes.
    CutOff { proxy: ProxyId, there: bool, back: bool, for_ms: u64 },
    /// Whatever a proxy says to brokers, and they to it, arrives later.
    StandsStill { proxy: ProxyId, for_ms: u64 },
    /// The broker stops that coordinates the groups of a cluster, and starts again.
    CoordinatorDown { cluster: usize, for_ms: u64 },
    /// Nothing passes from a proxy to a broker, or back, or both.
    Cut { proxy: ProxyId, cluster: usize, node_id: i32, there: bool, back: bool, for_ms: u64 },
    /// What is sent between a proxy and a broker arrives later.
    Hold { proxy: ProxyId, cluster: usize, node_id: i32, for_ms: u64 },
    /// All connections to a broker end.
    Reset { cluster: usize, node_id: i32 },
    /// A partition gets another leader.
    Move { cluster: usize, topic: usize, partition: i32 },
    /// Followers take so long.
    SlowReplicas { cluster: usize, delay_ms: i64, for_ms: u64 },
    /// Requests to a cluster are refused with an error, disowned, or lose their answers.
    Mishap { cluster: usize, api_key: i16, mishap: diffluent_testbed::model::Mishap, times: u32 },
    /// A region forgets the producers it knows.
    Forget { cluster: usize },
    /// A replica without everything takes over: so many committed offsets are lost.
    Unclean { cluster: usize, topic: usize, partition: i32, back: i64 },
    /// The committed progress of a region is gone, or goes back to what it was so many commits ago.
    ProgressLost { cluster: usize, region: usize },
    /// The local log's older half is removed.
    Retention { cluster: usize, topic: usize, partition: i32 },
    /// A topic gets more partitions.
    Grow { cluster: usize, topic: usize },
}

impl Fault {
    /// Whether committed records, or the knowledge of them, are lost.
    fn harms(&self) -> bool {
        matches!(self, Fault::Unclean { .. } | Fault::Retention { .. } | Fault::ProgressLost { .. })
    }

    /// The proxy that it is about.
    fn proxy_mut(&mut self) -> Option<&mut ProxyId> {
        match self {
            Fault::ProxyDown { proxy, .. } | Fault::Cut { proxy, .. } | Fault::Hold { proxy, .. } => Some(proxy),
            _ => None,
        }
    }

    /// Whether several paths may bring a record twice, or one of them may pass over it, when this happens.
    fn confuses_several_paths(&self) -> bool {
        // A broker that has forgotten a producer takes whatever comes.
        self.harms() || matches!(self, Fault::Forget { .. })
    }
}

/// Who mirrors to whom among so many clusters, and who forwards.
fn topology(clusters: usize, dice: &mut Dice) -> (Vec<Route>, Vec<usize>) {
    let last = clusters - 1;
    let route = |from, to| Route { from, to };
    let two_way = |pairs: Vec<(usize, usize)>| -> Vec<Route> {
        pairs.into_iter().flat_map(|(one, other)| [route(one, other), route(other, one)]).collect()
    };
    let all: Vec<usize> = (0..clusters).collect();
    let inner: Vec<usize> = (1..last).collect();
    match dice.below(6) {
        // A chain.
        0 => ((0..last).map(|from| route(from, from + 1)).collect(), inner),
        1 => (two_way((0..last).map(|from| (from, from + 1)).collect()), inner),
        // The same, but what came from one side also goes back there: a second path.
        2 => (two_way((0..last).map(|from| (from, from + 1)).collect()), all),
        // A hub and its spokes.
        3 => (two_way((1..=last).map(|spoke| (0, spoke)).collect()), vec![0]),
        // A ring.
        4 => ((0..clusters).map(|from| route(from, (from + 1) % clusters)).collect(), all),
        // A mesh in which everybody forwards: as many paths as there are.
        _ => {
            let others = |from: usize| (0..clusters).filter(move |to| *to != from).map(move |to| route(from, to));
            ((0..clusters).flat_map(others).collect(), all)
        }
    }
}

impl Plan {
    /// What the seed means where several proxies may share a cluster's streams.
    pub fn new(seed: u64) -> Self {
        let mut plan = Self { with_fleet: true, ..Self::alone(seed) };
        plan.draw_fleet();
        plan
    }

    /// What the seed means, with one proxy a cluster.
    pub fn alone(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let clusters = 2 + usize::try_from(dice.below(3)).expect("small");
        let brokers: Vec<i32> = (0..clusters).map(|_| 1 + i32::try_from(dice.below(3)).expect("small")).collect();
        let mesh = dice.one_in(3);
        let mut origins: Vec<usize> = if mesh { (0..clusters).collect() } else { vec![0] };
        let others = |from: usize| (0..clusters).filter(move |to| *to != from).map(move |to| Route { from, to });
        let mut routes: Vec<Route> = origins.iter().flat_map(|from| others(*from)).collect();
        let mut forwards = Vec::new();
        // Dice of its own: what other seeds mean stays.
        let mut shape = Dice::new(seed, 2);
        if shape.one_in(3) {
            (routes, forwards) = topology(clusters, &mut shape);
            origins = (0..clusters).filter(|cluster| *cluster == 0 || shape.one_in(2)).collect();
        }
        let topics = (0..1 + dice.below(2)).map(|_| 1 + i32::try_from(dice.below(3)).expect("small")).collect();
        let kinds =
            [Kind::Plain(-1), Kind::Plain(-1), Kind::Plain(1), Kind::Plain(0), Kind::Idempotent, Kind::Transactional];
        let mut producers = Vec::new();
        for &cluster in &origins {
            for _ in 0..1 + dice.below(4) {
                producers.push(ProducerPlan {
                    cluster,
                    kind: *dice.pick(&kinds),
                    bypass: dice.one_in(5),
                    pipelined: 1 + dice.below(6),
                    pause_ms: 5 + dice.below(150),
                });
            }
        }
        // Nothing hangs on it any more; what seeds mean stays.
        dice.one_in(6);
        let mut plan = Self {
            seed,
            with_fleet: false,
            fleet: vec![1; clusters],
            late: BTreeMap::new(),
            start_latest: false,
            brokers,
            origins,
            routes,
            forwards,
            through_proxies: shape.one_in(3),
            distance_ms: *dice.pick(&[1, 10, 50, 120]),
            buffer: *dice.pick(&["0 B", "2 KiB", "64 KiB", "64 MiB"]),
            topics,
            producers,
            faults: Vec::new(),
            brokers_are: Vec::new(),
        };
        let count = dice.below(9);
        let mut faults: Vec<(u64, Fault)> =
            (0..count).map(|_| (500 + dice.below(TROUBLE_MS - 500), plan.fault(&mut dice))).collect();
        faults.sort_by_key(|(at, _)| *at);
        plan.faults = faults;
        if plan.has_several_paths() {
            plan.faults.retain(|(_, fault)| !fault.confuses_several_paths());
        }
        for producer in &mut plan.producers {
            producer.bypass |= !plan.routes.iter().any(|route| route.from == producer.cluster);
        }
        plan.brokers_are = (0..clusters).map(|cluster| plan.brokers(cluster, &mut dice)).collect();
        plan
    }

    /// Draws how many proxies share a cluster's streams, and what goes wrong with several of them. With dice of its own: what seeds mean for one proxy stays.
    fn draw_fleet(&mut self) {
        let mut dice = Dice::new(self.seed, 3);
        if dice.one_in(4) {
            return;
        }
        for cluster in self.with_proxies() {
            self.fleet[cluster] = 1 + usize::try_from(dice.below(3)).expect("small");
        }
        for (_, fault) in &mut self.faults {
            if let Some(proxy) = fault.proxy_mut() {
                proxy.number = usize::try_from(dice.below(self.fleet[proxy.cluster] as u64)).expect("small");
            }
        }
        for proxy in self.proxies().into_iter().filter(|proxy| proxy.number > 0) {
            if dice.one_in(3) {
                self.late.insert(proxy, dice.below(TROUBLE_MS));
            }
        }
        for _ in 0..dice.below(6) {
            let at = 500 + dice.below(TROUBLE_MS - 500);
            let fault = self.fleet_fault(&mut dice);
            self.faults.push((at, fault));
        }
        // The last of a cluster's proxies stays.
        let mut left = self.fleet.clone();
        self.faults.retain(|(_, fault)| match fault {
            Fault::ProxyGone { proxy } => {
                let goes = left[proxy.cluster] > 1;
                left[proxy.cluster] -= usize::from(goes);
                goes
            }
            _ => true,
        });
        self.faults.sort_by_key(|(at, _)| *at);
        // Where nothing is lost on purpose it can be told where a stream has begun.
        let harmless = self.forwards.is_empty() && !self.faults.iter().any(|(_, fault)| fault.harms());
        self.start_latest = dice.one_in(4) && harmless;
        if self.start_latest {
            // Another coordinator does not know who has joined before the first generation: two that start then may begin at different offsets.
            let local = self.with_proxies();
            self.faults.retain(|(at, fault)| match fault {
                Fault::BrokerDown { cluster, .. } | Fault::CoordinatorDown { cluster, .. } => {
                    *at > FIRST_GENERATION_MS || !local.contains(cluster)
                }
                _ => true,
            });
            if dice.one_in(2) {
                // They begin side by side while records come: each sees another end of the log.
                for proxy in self.proxies() {
                    self.late.insert(proxy, TOGETHER_MS + dice.below(40));
                }
            }
        }
    }

    fn fleet_fault(&self, dice: &mut Dice) -> Fault {
        let proxies = self.proxies();
        let proxy = *dice.pick(&proxies);
        let for_ms = 100 + dice.below(8_000);
        match dice.below(9) {
            0 => Fault::ProxyDown { proxy, for_ms },
            1 | 2 => Fault::ProxyStop { proxy, for_ms: for_ms / 4 },
            3 => Fault::ProxyGone { proxy },
            4 | 5 => {
                let (there, back) = *dice.pick(&[(true, true), (true, false), (false, true)]);
                Fault::CutOff { proxy, there, back, for_ms: for_ms * 2 }
            }
            6 | 7 => Fault::StandsStill { proxy, for_ms: for_ms * 2 },
            _ => Fault::CoordinatorDown { cluster: proxy.cluster, for_ms },
        }
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let alone = if self.with_fleet { "" } else { "DIFFLUENT_ALONE=1 " };
        format!("{alone}DIFFLUENT_SEED={} cargo test --test simulation", self.seed)
    }

    /// All proxies.
    pub fn proxies(&self) -> Vec<ProxyId> {
        let of = |cluster: usize| (0..self.fleet[cluster]).map(move |number| ProxyId { cluster, number });
        self.with_proxies().into_iter().flat_map(of).collect()
    }

    /// Whether a stream may stall because nothing tells where it stands: its progress is lost, and so is what its region has got last.
    pub fn may_need_a_person(&self, route: Route) -> bool {
        let lost = (route.from, route.to);
        self.any_fault(|fault| matches!(fault, Fault::ProgressLost { cluster, region } if (*cluster, *region) == lost))
            && self.any_fault(|fault| matches!(fault, Fault::Unclean { cluster, .. } if *cluster == route.from))
    }

    /// Whether what one proxy of a cluster has sent may arrive while another one begins a new incarnation of the stream: that one has searched before.
    pub fn may_come_late(&self, cluster: usize) -> bool {
        let late = |fault: &Fault| matches!(fault, Fault::StandsStill { proxy, .. } | Fault::Hold { proxy, .. } if proxy.cluster == cluster);
        self.fleet[cluster] > 1 && self.any_fault(late) && self.any_fault(Fault::harms)
    }

    /// Whether there is such a fault.
    pub fn any_fault(&self, what: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| what(fault))
    }

    /// Whether several proxies share a cluster's streams.
    pub fn has_fleet(&self) -> bool {
        self.with_proxies().into_iter().any(|cluster| self.fleet[cluster] > 1)
    }

    /// Clusters that have proxies.
    pub fn with_proxies(&self) -> Vec<usize> {
        (0..self.brokers.len()).filter(|cluster| self.routes.iter().any(|route| route.from == *cluster)).collect()
    }

    /// Whether what was born in `origin` goes this way, where it gets there at all.
    pub fn carries(&self, route: Route, origin: usize) -> bool {
        route.to != origin && (route.from == origin || self.forwards.contains(&route.from))
    }

    /// The clusters that get what was born in `origin`.
    pub fn reached(&self, origin: usize) -> Vec<usize> {
        let mut reached = vec![origin];
        let mut at = 0;
        while let Some(&from) = reached.get(at) {
            for route in self.routes.iter().filter(|route| route.from == from && self.carries(**route, origin)) {
                if !reached.contains(&route.to) {
                    reached.push(route.to);
                }
            }
            at += 1;
        }
        reached.split_off(1)
    }

    fn has_several_paths(&self) -> bool {
        self.origins.iter().any(|&origin| {
            let reached = self.reached(origin);
            let comes = |from: usize| from == origin || reached.contains(&from);
            reached.iter().any(|to| {
                let paths = self
                    .routes
                    .iter()
                    .filter(|route| route.to == *to && comes(route.from) && self.carries(**route, origin));
                paths.count() > 1
            })
        })
    }

    fn brokers(&self, cluster: usize, dice: &mut Dice) -> Brokers {
        let drawn = Brokers {
            refuse_foreign_ids: dice.one_in(8),
            describe_no_producers: dice.one_in(8),
            forget_after_ms: dice.one_in(6).then(|| 500 + dice.below(4_000) as i64),
        };
        // Twins rely on the brokers' memory, and write under one id only if it is the reserved one.
        let regions_only = !self.origins.contains(&cluster) && self.forwards.is_empty();
        // What comes back from there is held back.
        let one_way = regions_only && !self.routes.iter().any(|route| route.from == cluster);
        let forgets =
            |(_, fault): &(u64, Fault)| matches!(fault, Fault::ProgressLost { region, .. } if *region == cluster);
        Brokers {
            // Under such an id a stream knows its records no more once its progress is lost.
            refuse_foreign_ids: drawn.refuse_foreign_ids && one_way && !self.faults.iter().any(forgets),
            // A local broker that forgets its own producers makes duplicates of its own.
            forget_after_ms: drawn.forget_after_ms.filter(|_| regions_only),
            ..drawn
        }
    }

    fn fault(&self, dice: &mut Dice) -> Fault {
        use diffluent_testbed::model::Mishap;
        let cluster = usize::try_from(dice.below(self.brokers.len() as u64)).expect("small");
        let node_id = 1 + i32::try_from(dice.below(self.brokers[cluster] as u64)).expect("small");
        let proxy = *dice.pick(&self.with_proxies());
        let first = ProxyId { cluster: proxy, number: 0 };
        let for_ms = 100 + dice.below(8_000);
        let topic = usize::try_from(dice.below(self.topics.len() as u64)).expect("small");
        let partition = i32::try_from(dice.below(self.topics[topic] as u64)).expect("small");
        match dice.below(22) {
            0..=2 => Fault::BrokerDown { cluster, node_id, for_ms },
            3..=5 => Fault::ProxyDown { proxy: first, for_ms: for_ms / 4 },
            6 | 7 => {
                let (there, back) = *dice.pick(&[(true, true), (true, false), (false, true)]);
                Fault::Cut { proxy: first, cluster, node_id, there, back, for_ms }
            }
            8 | 9 => Fault::Hold { proxy: first, cluster, node_id, for_ms },
            10 | 11 => Fault::Reset { cluster, node_id },
            12 | 13 => Fault::Move { cluster, topic, partition },
            14 => Fault::SlowReplicas { cluster, delay_ms: 20 + for_ms as i64 / 4, for_ms },
            15 | 16 => {
                let mishap = match dice.below(4) {
                    0 => Mishap::AnswerLost,
                    1 => Mishap::Disowned(*dice.pick(&[7, 20])),
                    _ => Mishap::Refused(*dice.pick(&[6, 3, 19, 7, 5])),
                };
                let api_key = if mishap == Mishap::AnswerLost { *dice.pick(&[0, 1, 2, 3, 8, 9, 19, 23]) } else { 0 };
                Fault::Mishap { cluster, api_key, mishap, times: 1 + u32::try_from(dice.below(4)).expect("small") }
            }
            17 => Fault::Forget { cluster },
            18 => Fault::Unclean { cluster, topic, partition, back: 1 + dice.below(20) as i64 },
            19 => {
                let region = if cluster == proxy { (cluster + 1) % self.brokers.len() } else { cluster };
                let route = self.routes.iter().find(|route| route.from == proxy);
                let known = self.routes.contains(&Route { from: proxy, to: region });
                let region = route.filter(|_| !known).map_or(region, |route| route.to);
                Fault::ProgressLost { cluster: proxy, region }
            }
            20 => Fault::Retention { cluster: proxy, topic, partition },
            _ => Fault::Grow { cluster: proxy, topic },
        }
    }
}
