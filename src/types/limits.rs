//! Every limit that bounds what an outsider, a peer or a configuration can make a node hold, in one
//! place.
//!
//! Each name says what it limits and in which unit; the comment says why this value. A full queue
//! is an answer to the sender, never growth. Protocol limits (marked P) are the same on every node
//! of a network: raising one is a change of the protocol version.

/// P. Payload of one transaction, bytes: a WebAssembly package of 1 MiB plus its arguments.
pub const TX_PAYLOAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// P. Chaincode and function names, bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 64;
/// P. Arguments of one invocation.
pub const ARGS_MAX: usize = 64;
/// P. A transaction may stay valid for at most this many blocks; bounds the table of recent ids.
pub const VALIDITY_BLOCKS_MAX: u64 = 1024;
/// Ids of executed transactions that this table holds: 1,536 of each block on average. Full blocks
/// of the smallest transactions would be 43 million, above 1 GB. An entry takes 17 bytes of a hash
/// table and 8 in its block: this many fill 2^21 buckets to 3/4, removals may double them, so at
/// most 84 MB, and 36 MB more while it grows. Beyond, the index on disk is asked, which forgets
/// nothing.
pub const RECENT_IDS_MAX: usize = 1536 * 1024;
/// P. X.509 certificate, DER bytes: P-256 with attributes needs under 2 KiB.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// P. Attributes of one certificate.
pub const ATTRIBUTES_MAX: usize = 32;
/// P. Value of one attribute, bytes of UTF-8.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 256;
/// P. Host names and addresses of one TLS certificate.
pub const CERTIFICATE_HOSTS_MAX: usize = 16;

/// P. Transactions of one batch.
pub const BATCH_TXS_MAX: usize = 4096;
/// P. Encoded batch, bytes: one largest transaction with its certificate fits.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// P. Batches of one block.
pub const BLOCK_BATCHES_MAX: usize = 64;
/// P. Encoded bodies of one block, bytes.
pub const BLOCK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// P. Transactions of one block.
pub const SEQUENCE_TXS_MAX: usize = BLOCK_BATCHES_MAX * BATCH_TXS_MAX;
/// P. Bytes that the transactions of one block may write, return and emit together; the ones after
/// fail. A block of small transactions could otherwise grow a thousandfold when executed.
pub const BLOCK_OUTPUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// P. Validators of one network.
pub const REPLICAS_MAX: usize = 100;
/// P. Organisations of one network.
pub const ORGANISATIONS_MAX: usize = 100;
/// P. Texts that one signature of a bundle stands for, of which one signed ahead counts twice; a power
/// of two.
pub const BUNDLE_TEXTS_MAX: usize = 64;
/// Signatures of consensus messages that a node remembers having checked, 100 bytes each: the votes
/// of four validators over a window five times, of sixteen once.
pub const SIGNATURES_KNOWN_MAX: usize = 16 * 1024;
/// Sequence numbers of one session key, unless configured: an hour at 580 blocks a second.
pub const SESSION_SEQUENCES: u64 = 2_097_152;
/// A session is at least a few windows long, so that the next one can be certified meanwhile.
pub const SESSION_SEQUENCES_MIN: u64 = 4 * WINDOW_MAX;
/// The longest session.
pub const SESSION_SEQUENCES_MAX: u64 = 1 << 32;
/// Lost session keys in a row that are passed over.
pub const SESSION_ATTEMPTS_MAX: usize = 16;
/// P. Encoded consensus message, bytes: a new-view of 100 replicas with a window of one checkpoint
/// interval fits, whatever way its votes are signed.
pub const CONSENSUS_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// P. Sequence numbers between the low and the high watermark.
pub const WINDOW_MAX: u64 = 256;

/// P. Batches that one status message names as waiting for the primary: enough to notice one that
/// is ignored.
pub const STATUS_BATCHES_MAX: usize = 16;
/// Committed sequence numbers with their certificates sent in answer to one status message.
pub const STATUS_ANSWER_SEQUENCES_MAX: u64 = 16;
/// Ids of batches delivered last, kept to refuse a second proposal of one: 64 full sequences.
pub const RECENT_BATCHES_MAX: usize = 64 * BLOCK_BATCHES_MAX;
/// How much later than its last proposal a primary begins the next one, while the pipe is nearly full
/// and the waiting work does not fill one, milliseconds, unless configured; with less in flight
/// sooner. A validator's batches keep it likewise. The second in flight keeps a quarter, a little
/// more than the round of four validators on one machine (4.6 ms at 217 blocks per second,
/// `bench/README.md`); with `PROPOSALS_IN_FLIGHT` it fills most of the round of sites 50 ms apart.
pub const PROPOSAL_SPACING_MS: u64 = 20;
/// Proposals that a primary has under way at once, unless configured. More of them make blocks
/// smaller under load: 16 cost 6 % more CPU per transaction than 4 on one machine.
pub const PROPOSALS_IN_FLIGHT: u64 = 8;
/// Greatest spacing that may be configured, milliseconds: a client would see no more.
pub const PROPOSAL_SPACING_MS_MAX: u64 = 1_000;
/// Transactions that are worth a round of their own: half of what closes a batch.
pub const PROPOSAL_FULL_TXS: usize = BATCH_TARGET_TXS / 2;
/// Bytes that are: a batch closed for its bytes is up to one transaction short of the target.
pub const PROPOSAL_FULL_BYTES: usize = BATCH_TARGET_BYTES / 2;
/// Rounds over all replicas in which the body of one batch is asked for; then it takes a view
/// change or catch-up to ask again.
pub const FETCH_ROUNDS_MAX: u32 = 4;

/// P. Key of one state entry, bytes.
pub const STATE_KEY_BYTES_MAX: usize = 1024;
/// P. Value of one state entry, bytes.
pub const STATE_VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// P. Return value of one transaction, bytes.
pub const RETURN_BYTES_MAX: usize = 64 * 1024;
/// P. Error text of a failed transaction, bytes; longer ones are cut.
pub const ERROR_TEXT_BYTES_MAX: usize = 512;
/// P. Events of one transaction.
pub const TX_EVENTS_MAX: usize = 64;
/// P. Name plus payload of one event, bytes.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// P. Distinct keys that one transaction may write.
pub const TX_WRITES_MAX: usize = 4096;
/// P. Bytes of all keys and values that one transaction may write.
pub const TX_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// P. Entries that one range scan returns.
pub const SCAN_ENTRIES_MAX: usize = 4096;
/// Entries of one page of a contract's state that a client asks for.
pub const STATE_PAGE_ENTRIES_MAX: usize = 1024;
/// Keys and values of such a page, bytes, above which it takes no further entry: a page with one
/// largest value more fits an answer.
pub const STATE_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Keys of one state proof.
pub const PROOF_KEYS_MAX: usize = 256;
/// Values of the world state that execution keeps at hand, presence and absence alike.
pub const STATE_CACHE_ENTRIES_MAX: usize = 64 * 1024;
/// Largest value among them, bytes: at most 32 MiB of values with the number above.
pub const STATE_CACHE_VALUE_BYTES_MAX: usize = 512;
/// Nodes of one state proof: 256 paths of 40 levels with their siblings fit; bounds the memory that
/// a short encoding can claim.
pub const PROOF_NODES_MAX: usize = 32 * 1024;
/// Encoded state proof, bytes: 256 keys with their paths and a largest value fit.
pub const STATE_PROOF_BYTES_MAX: usize = 8 * 1024 * 1024;
/// P. Depth of contract-to-contract calls.
pub const CALL_DEPTH_MAX: usize = 8;
/// P. Package of one contract, bytes; fits a transaction with its other arguments.
pub const PACKAGE_BYTES_MAX: usize = 1024 * 1024;
/// P. Linear memory of one running WebAssembly contract, bytes: 256 pages.
pub const WASM_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// P. Elements of all tables of a WebAssembly contract; a table entry is a function's address.
pub const WASM_TABLE_ELEMENTS_MAX: usize = 16 * 1024;
/// Contracts whose compiled code a node keeps ready; others are compiled again at their next call.
pub const LOADED_CONTRACTS_MAX: usize = 32;

/// Encoded genesis document, bytes: 100 organisations and 100 validators with their certificates.
pub const GENESIS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One frame between peers, bytes: the largest message plus its header.
pub const FRAME_BYTES_MAX: usize = CONSENSUS_MESSAGE_BYTES_MAX + 64 * 1024;
/// Frames waiting for one peer and class; when full the oldest of the class is dropped and counted
/// (votes are sent again by the protocol, batches are fetched).
pub const PEER_QUEUE_FRAMES_MAX: usize = 4096;
/// Bytes waiting for one peer and class.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that wait for a peer that is not connected: enough to bridge a restart, while the queues
/// of many absent peers stay small. What is lost is sent again by the protocol or fetched.
pub const PEER_QUEUE_OFFLINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages of one frame between peers; counted before they are decoded.
pub const FRAME_MESSAGES_MAX: usize = 4096;
/// Bytes that the writer gathers into one frame before it starts the next; a single larger message
/// is a frame of its own.
pub const FRAME_GATHERED_BYTES: usize = 256 * 1024;
/// Connections that one peer may hold open towards this node: one per class, and one more of each
/// while a restarted peer's old ones have not yet been noticed as dead. Above, the oldest is
/// closed.
pub const PEER_CONNECTIONS_MAX: usize = 4;
/// Bytes per second taken from one connection of a peer, averaged over a second; above, reading
/// pauses and flow control slows the sender down. Four times what a 1 Gbit/s link can carry.
pub const INBOUND_BYTES_PER_S_MAX: u64 = 512 * 1024 * 1024;
/// Messages per second taken from one connection of a peer, likewise.
pub const INBOUND_MESSAGES_PER_S_MAX: u64 = 200_000;
/// TLS handshakes under way on one listener; above, the oldest is broken off.
pub const HANDSHAKES_MAX: usize = 64;
/// A TLS handshake, and after it the first frame, must arrive within this time, milliseconds.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// First pause after a failed connection attempt, milliseconds; doubles per failure.
pub const REDIAL_MS_MIN: u64 = 100;
/// Longest pause between connection attempts, milliseconds.
pub const REDIAL_MS_MAX: u64 = 5_000;

/// Transactions admitted here and not yet in a closed batch; when full a client is told "busy,
/// retry after".
pub const MEMPOOL_TXS_MAX: usize = 16 * 1024;
/// Bytes of those transactions.
pub const MEMPOOL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of batches known here and not yet in a block, over all authors.
pub const PENDING_BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Batches of one author known here and not yet in a block: one validator cannot fill the table of
/// another.
pub const PENDING_BATCHES_PER_AUTHOR_MAX: usize = 256;
/// Signature checks waiting in one lane of the verification pool: about three seconds of one core
/// at P-256.
pub const VERIFY_QUEUE_CHECKS_MAX: usize = 64 * 1024;
/// Threads of the verification pool.
pub const VERIFY_THREADS_MAX: usize = 256;
/// Nodes that share one host, as `host.nodes` says.
pub const HOST_NODES_MAX: usize = 64;
/// Least memory that `host.memory_mib` leaves a node, MiB: below it, the state tree has no room.
pub const HOST_MEMORY_MIB_MIN: u64 = 256;
/// Parsed public keys kept for the next check (about 1 KiB each); least recently used out.
pub const VERIFY_KEYS_MAX: usize = 8192;
/// P-256 keys with a table of their multiples (about 160 KB each, 40 MB in all); least recently used
/// out.
pub const KEY_TABLES_MAX: usize = 256;
/// Checks that earn a key its table. A table costs about as much as it saves in 750 checks (15 ms and
/// 20 us on x86-64), so keys that come in turn, more than have tables, cost at most 15 us a check more.
pub const KEY_TABLE_AFTER_CHECKS: u32 = 1024;
/// Inputs waiting for the consensus thread.
pub const CONSENSUS_INPUTS_MAX: usize = 8192;
/// Blocks ordered and not yet executed.
pub const ORDERED_BLOCKS_MAX: usize = 32;
/// Blocks executed and not yet durable.
pub const EXECUTED_BLOCKS_MAX: usize = 8;
/// Blocks waiting for one event subscriber; a slower one is told where it was cut and reads on from
/// the store.
pub const SUBSCRIBER_BLOCKS_MAX: usize = 64;
/// Subscribers of one node.
pub const SUBSCRIBERS_MAX: usize = 1024;
/// Clients waiting for a receipt on one node.
pub const RECEIPT_WAITERS_MAX: usize = 64 * 1024;
/// Blocks of one catch-up response.
pub const CATCH_UP_BLOCKS_MAX: usize = 32;

/// One ledger segment file, bytes; then the next one starts.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A segment file grows by at least this many preallocated bytes, so that few syncs change its
/// size.
pub const SEGMENT_PREALLOCATED_BYTES: u64 = 8 * 1024 * 1024;
/// One record of a segment, bytes: a largest block with its receipts.
pub const SEGMENT_RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of sealed segments whose checksums are verified at open, newest first; older ones are
/// verified whenever they are read, so that opening a large ledger takes seconds.
pub const OPEN_VERIFIED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Ids of client certificates that the ledger remembers having stored; a forgotten one is written
/// again.
pub const STORED_CERTIFICATES_REMEMBERED_MAX: usize = 64 * 1024;

/// Body of one REST request, bytes: a deploy in base64 fits.
pub const REST_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Open connections of one listener.
pub const CONNECTIONS_MAX: usize = 1024;

/// Slots that the signer's guard holds in memory: the watermark window over many views fits many
/// times; when full, new slots are refused until the caller forgets old ones.
pub const GUARD_SLOTS_MAX: usize = 256 * 1024;
/// Slots in memory above which the guard forgets by itself what lies far below the newest sequence
/// number it signed: several full windows stay below it.
pub const GUARD_SLOTS_KEPT: usize = 16 * 1024;
/// How far below the newest signed sequence number the guard never forgets by itself. A replica
/// signs within one window above its stable checkpoint only, so what lies a window below its newest
/// signature is stable; four leave room for cores that differ.
pub const GUARD_SEQUENCES_KEPT: u64 = 4 * WINDOW_MAX;
/// New slots of one append to the guard's log; a replica signs at most a few per sequence number
/// of the window at once.
pub const GUARD_APPEND_RECORDS_MAX: usize = 4096;
/// Guard log, bytes, above which it is rewritten without the forgotten slots.
pub const GUARD_COMPACT_BYTES: u64 = 8 * 1024 * 1024;
/// Step in which the guard's log is filled with zeros ahead of use, bytes: a sync that allocates
/// nothing is the cheap one.
pub const GUARD_PREALLOCATE_BYTES: u64 = 1024 * 1024;
/// Guard log, bytes, above which it is not read at all: all slots in memory fit four times.
pub const GUARD_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// View-change and new-view slots that survive a rewrite of the guard's log, newest first; older
/// views are refused as a whole.
pub const GUARD_VIEW_SLOTS_KEPT: usize = 1024;

/// Certificates that were validated and are kept with their identity; the least recently used goes
/// first. A network's active clients fit; one more validation costs about 0.1 ms.
pub const IDENTITY_CACHE_MAX: usize = 16 * 1024;
/// Certificates that were refused and are remembered, so that repeating one costs no validation.
pub const REFUSED_CACHE_MAX: usize = 4 * 1024;
/// Days for which a certificate may be issued: a century, so that dates stay within X.509.
pub const VALIDITY_DAYS_MAX: u32 = 36_525;
/// One PEM file of an identity's folder, bytes.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Length of one generation of the order station's write-ahead log, bytes; then what is still
/// needed is written anew.
pub const WAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies of delivered batches kept for replicas that still ask for them, bytes.
pub const DELIVERED_BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Transactions at which a batch closes although others of its author still wait to be ordered.
pub const BATCH_TARGET_TXS: usize = 512;
/// Bytes at which it does; one larger transaction makes a batch of its own.
pub const BATCH_TARGET_BYTES: usize = 256 * 1024;
/// Own batches waiting to be ordered; more are not closed, so the mempool fills and answers "busy".
pub const OWN_BATCHES_MAX: usize = 8;
/// What a full queue tells a client to wait, milliseconds.
pub const BUSY_RETRY_MS: u64 = 100;
/// Blocks kept in memory for subscribers that are up to date.
pub const RECENT_BLOCKS_MAX: usize = 16;
/// Bytes of one catch-up response, except that it always holds one block.
pub const CATCH_UP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Certificates of transaction creators that admission keeps at hand.
pub const CERTIFICATES_CACHED_MAX: usize = 8 * 1024;
/// Consensus messages from peers waiting for the check of their signatures.
pub const VOTES_UNCHECKED_MAX: usize = 4096;
/// Batches from peers waiting for the check of their signatures.
pub const BATCHES_UNCHECKED_MAX: usize = 64;
/// Requests and tips of peers waiting for the catch-up station.
pub const CATCH_UP_INPUTS_MAX: usize = 1024;
/// A request must be answered within this time, milliseconds: the longest wait for a receipt and
/// some work.
pub const REQUEST_MS_MAX: u64 = 90_000;
/// A client may wait for a receipt at most this long, milliseconds.
pub const RECEIPT_WAIT_MS_MAX: u64 = 60_000;
/// The body of a request must arrive within this time, milliseconds.
pub const BODY_MS_MAX: u64 = 30_000;
/// The head of a request must arrive within this time, milliseconds; ends idle connections too.
pub const REQUEST_HEAD_MS_MAX: u64 = 30_000;
/// Head of a request, bytes.
pub const REQUEST_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests under way on one gRPC connection.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
/// One gRPC message of a client or to it, bytes: a block with its result fits.
pub const API_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Transactions of one submitting stream that wait for their block; beyond, the stream is not read.
pub const STREAM_PENDING_MAX: usize = 32 * 1024;
/// Transactions of one message of a submitting stream.
pub const SUBMIT_TXS_MAX: usize = 4096;
/// Certificates of creators kept for one submitting stream.
pub const STREAM_CERTIFICATES_MAX: usize = 1024;
/// Messages written and not yet sent on one answering stream.
pub const STREAM_ANSWERS_MAX: usize = 16;
/// Reads of the store and queries of contracts under way for clients on one node; each holds a
/// thread and at most one snapshot of the store, until it ends, also where its caller hung up;
/// beyond it a caller is told "busy".
pub const READS_MAX: usize = 128;

/// Texts of one request to the signer: a replica signs at most a few per sequence number of the
/// window at once, and the guard appends no more.
pub const SIGNER_TEXTS_MAX: usize = GUARD_APPEND_RECORDS_MAX;
/// A TLS handshake text that the signer signs, bytes: TLS 1.3 signs 64 spaces, a label and a hash.
pub const SIGNER_HANDSHAKE_BYTES_MAX: usize = 512;
/// The signer's status, bytes of JSON.
pub const SIGNER_STATUS_BYTES_MAX: usize = 1024 * 1024;
/// Votes that are signed before they are cast, and as many that wait for that; one per proposal in
/// flight is of use.
pub const SIGNED_AHEAD_MAX: usize = 64;
/// Requests for votes that a node has under way at its signer, where the key is slow.
pub const SIGNER_PARALLEL_MAX: usize = 16;
/// Requests waiting in one lane of the signer; each caller waits for its answer, so connections
/// bound it anyway.
pub const SIGNER_QUEUE_MAX: usize = 256;
/// Connections to one signer: two per validator and some tools.
pub const SIGNER_CONNECTIONS_MAX: usize = 128;
/// Threads that answer requests in the signer.
pub const SIGNER_WORKERS_MAX: usize = 64;
/// Requests of one node waiting for the signer; more are refused at once.
pub const SIGNER_REQUESTS_WAITING_MAX: usize = 256;
/// A request waits for the signer at most this long, milliseconds, unless configured.
pub const SIGNER_DEADLINE_MS: u64 = 2_000;
/// A starting node waits for its signer this long, milliseconds; then it stops and says so.
pub const SIGNER_START_MS: u64 = 30_000;
/// Sentences with which a signer warns the node about one key.
pub const SIGNER_WARNINGS_MAX: usize = 16;
/// A node asks its signer for warnings so often, milliseconds.
pub const SIGNER_WARNINGS_MS: u64 = 5_000;
/// Longest pause between two attempts to reach the signer, milliseconds.
pub const SIGNER_RECONNECT_MS_MAX: u64 = 1_000;
/// Messages that the signer did not sign and that wait to be asked again; older ones are dropped,
/// as if lost on the network.
pub const UNSIGNED_MESSAGES_MAX: usize = 1024;

/// Sessions of a token that sign in parallel, unless configured.
pub const TOKEN_SESSIONS: usize = 4;
/// Sessions of a token at most; small devices have 16 in all.
pub const TOKEN_SESSIONS_MAX: usize = 256;
/// One signature of a token, all rungs of the ladder included, milliseconds, unless configured.
pub const TOKEN_DEADLINE_MS: u64 = 1_500;
/// A question of a start or of a tool waits this long for a session of a token, milliseconds:
/// those of a process that has just ended may outlive it.
pub const TOKEN_START_MS: u64 = 10_000;
/// A module answers a question of a start or of a tool within this time, milliseconds, or it is given
/// up: an HSM's login takes a few seconds, one over a network with a lost connection many more.
pub const TOKEN_ANSWER_MS: u64 = 30_000;
/// The same where the key was seen before, or at another of its places: the start can go on without.
pub const TOKEN_ANSWER_KNOWN_MS: u64 = 5_000;
/// A token that is away is looked for again after this time, milliseconds.
pub const TOKEN_AWAY_LOOK_MS: u64 = 5_000;
/// A look at a token that takes longer, milliseconds, ends the process: a module that has hung for so
/// long may not see its token again, and a new process goes on with what it has within seconds.
pub const TOKEN_HANG_MS_MAX: u64 = 15 * 60_000;
/// Signatures waiting for a session of one token.
pub const TOKEN_JOBS_MAX: usize = 4096;
/// Threads of one token that may hang in calls of its module; one more ends the process.
pub const TOKEN_WORKERS_LOST_MAX: usize = 2;
/// Longest pause between two reinitialisations of a module, milliseconds.
pub const TOKEN_REST_MS_MAX: u64 = 5_000;
/// A token that refused a session is asked for one more after this time, milliseconds: sessions
/// come back when other users of the device end theirs, which is a matter of seconds.
pub const TOKEN_PROBE_MS: u64 = 2_000;
/// Longest pause between two such questions, milliseconds.
pub const TOKEN_PROBE_MS_MAX: u64 = 60_000;
/// Keys of one token that are listed.
pub const TOKEN_KEYS_LISTED_MAX: usize = 1024;
/// A PIN, bytes.
pub const PIN_BYTES_MAX: usize = 255;
/// Library files up to this size are searched for the mark of tracing modules, bytes.
pub const SPY_SEARCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bodies of batches that a node remembers having asked for: a full window of full blocks.
pub const BODIES_ASKED_MAX: usize = 16 * 1024;
/// Messages of one piece of evidence: two that contradict each other.
pub const EVIDENCE_MESSAGES_MAX: usize = 2;
/// Pieces of evidence kept against one replica: one proves enough, the rest shows whether it goes
/// on.
pub const EVIDENCE_PER_CULPRIT_MAX: usize = 8;
/// Bytes of all evidence that a node keeps; it fits one answer of the API. Two votes take less than
/// 1 KiB, two new-views of a large network with full windows may not fit and are only logged.
pub const EVIDENCE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// While a node starts, the service manager is asked for this much more time again and again,
/// milliseconds: opening a long ledger is no hang. Long beside `START_TOLD_MS`, since a machine that
/// is slow enough to need it also runs the asking thread late.
pub const START_STEP_MS: u64 = 30_000;
/// How often a node that starts tells the service manager its step, milliseconds.
pub const START_TOLD_MS: u64 = 1_000;
/// Longest pause between two looks at the consensus thread, milliseconds; shorter where the service
/// manager's watchdog asks for it.
pub const SERVICE_TURN_MS_MAX: u64 = 5_000;

/// Votes that one peer shows of a replica's key: the newest of each phase that fills slots, by
/// sequence number and by view.
pub const WITNESS_ENVELOPES_MAX: usize = 12;
/// Answers of peers that wait to be looked at; more are dropped, and asked for again.
pub const WITNESS_INPUTS_MAX: usize = 256;
/// A voting validator asks its peers what they saw of its key in this interval, milliseconds.
pub const WITNESS_INTERVAL_MS: u64 = 10_000;
/// The same while it may not vote yet.
pub const WITNESS_RETRY_MS: u64 = 100;
/// A peer answers one replica at most once in this time, milliseconds.
pub const WITNESS_ANSWER_MS_MIN: u64 = 25;
/// How long a validator listens in silence, milliseconds, before it votes again after its record
/// turned out to be incomplete: whoever else uses the key shows itself meanwhile.
pub const FENCE_HOLD_MS: u64 = 15_000;
/// Windows above the newest vote shown below which nothing is signed after that: no correct replica
/// can have voted there.
pub const FENCE_WINDOWS: u64 = 2;
/// Wrong secrets for one registered name; then it must be registered again. A secret has 128 bits:
/// this is a sign of trouble, not what keeps it from being guessed.
pub const ENROLMENT_TRIES_MAX: u32 = 10;
/// Least time between two requests for one name, milliseconds.
pub const ENROLMENT_PAUSE_MS: u64 = 500;
/// Names whose last request a membership service remembers for that; the least recent goes first.
pub const ENROLMENT_NAMES_PACED_MAX: usize = 4096;
/// Requests under way in one membership service; each waits for one sync of the register.
pub const ENROLMENTS_MAX: usize = 8;
/// Body of one enrolment request, bytes: two keys, two signatures and a name need under 1 KiB.
pub const ENROLMENT_BODY_BYTES_MAX: usize = 8 * 1024;
/// Answer to one enrolment request, bytes: three certificates in PEM.
pub const ENROLMENT_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Attempts of a client that is told to wait.
pub const ENROLMENT_ATTEMPTS_MAX: u32 = 5;
/// Names of one register: with the length below about 6 KiB each, certificates included.
pub const REGISTRATIONS_MAX: usize = 10_000;
/// A register's file, bytes.
pub const REGISTER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The membership service makes itself a new TLS certificate after this time, milliseconds: a day.
pub const SERVICE_TLS_RENEWED_MS: u64 = 24 * 60 * 60 * 1000;
/// How long such a certificate is valid, days.
pub const SERVICE_TLS_DAYS: u32 = 7;
