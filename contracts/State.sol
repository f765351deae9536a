// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

// All that the contract stores, as one struct at slot 0: the contract and the libraries that run on
// its storage by delegatecall find it there. Nothing else may declare a variable.

enum Kind {
    NONE,
    ADMIT,
    REMOVE,
    UPGRADE
}

enum ProposalStatus {
    NONE,
    OPEN,
    PASSED,
    CANCELLED
}

enum PlanStatus {
    NONE,
    PROPOSED,
    RUNNING,
    COMPLETED,
    STOPPED
}

enum RoundStatus {
    NONE,
    OPEN,
    CLOSED,
    FINAL,
    VOID,
    MASKING,
    LOCKED
}

/// @dev What a member has checked when it attests: that it holds the model (1, the least), the
/// chunks assigned to it (2), or every chunk (3, the most).
uint8 constant LEVEL_HELD = 1;
uint8 constant LEVEL_FULL = 3;

/// @dev Duties of a participant, as flags.
uint8 constant TRAIN = 1;
uint8 constant HOLD = 2;
uint8 constant TEST = 4;

uint256 constant MAX_MEMBERS = 256;
uint256 constant MAX_NAME_BYTES = 64;
/// @dev Outputs of a plan: the model, statistics, the best model, gathered rows.
uint256 constant SLOTS = 4;
uint256 constant MODEL_SLOT = 0;
/// @dev `Rules.colluders` of a plan whose updates are not masked.
uint8 constant PLAIN = 255;
/// @dev `Rules.holder`: no role; whoever is drawn at each opening; FIRST_NAMED + m: member m.
uint16 constant NO_ROLE = 0;
uint16 constant DRAWN = 1;
uint16 constant FIRST_NAMED = 2;
/// @dev `Round.holder` where nobody holds a role: no member's number.
uint16 constant NO_HOLDER = 256;

struct Founder {
    address account;
    address node;
    string name;
}

struct Member {
    address account;
    /// Beside the account, not the node: it changes with every transaction, and a replica asks for
    /// the validators anew only after a block that writes what they are read from.
    uint64 seenAt;
    address node;
    address standby;
    uint64 contactAt;
    string name;
    /// The node's signed addresses, as it stated them last; opaque to this contract.
    bytes contact;
}

struct Proposal {
    Kind kind;
    ProposalStatus status;
    uint8 proposer;
    /// The new member's number, once an ADMIT has passed.
    uint8 admitted;
    uint64 openedAt;
    /// REMOVE: the member's number. UPGRADE: the protocol version.
    uint64 target;
    /// UPGRADE: the block from which the version holds.
    uint64 height;
    address account;
    address node;
    uint256 ayes;
    uint256 noes;
    string name;
}

/// @dev What a member has proposed on one day of chain time, counted from 1970.
struct Budget {
    uint64 day;
    uint8 proposals;
    uint8 plans;
}

/// @dev One word of storage. Counts and whole seconds.
struct Rules {
    /// Number of the last round: a cap over all stages, which are numbered through from 1.
    uint32 rounds;
    /// Submissions without which nothing is merged.
    uint16 minPeers;
    /// What a member must have checked to attest.
    uint8 verifyLevel;
    /// How many curious members masked updates withstand; PLAIN: updates are not masked.
    uint8 colluders;
    /// The fewest training rows with which a site may train.
    uint32 minRows;
    /// Who holds the plan's role: NO_ROLE, DRAWN, or FIRST_NAMED + a member's number.
    uint16 holder;
    /// Whether it may open masked sums over a base that another plan has locked already.
    bool reopens;
    /// Nobody but the completing submit may close before this much of the round has run.
    uint24 windowS;
    /// How long after the minPeers-th submission the others are still let in.
    uint24 graceS;
    /// A participant counts as live for this long after its last transaction.
    uint24 livenessS;
    /// A live participant is waited for until then, and no longer.
    uint24 maxRoundS;
    /// The shortest time that a leader is given.
    uint24 slotS;
}

/// @dev What a member consents with.
struct Terms {
    uint8 duties;
    /// The most samples that it will ever claim; 0 without TRAIN.
    uint64 maxSamples;
    /// A salted digest of what allows it to take part.
    bytes32 permit;
    /// After this time the consent counts as withdrawn at the next opening; 0: never.
    uint64 until;
    /// keccak256 of the secret that the first submission will reveal.
    bytes32 commitment;
    /// The public key to which shares are sealed from the next attempt on, in masked rounds.
    bytes32 receivingKey;
    bytes32 meta;
}

struct Consent {
    // One word of storage, hence the narrow maximum (below 2**45).
    uint8 duties;
    uint48 maxSamples;
    uint64 until;
    uint64 seenAt;
    /// Where `commitment` was made (0, 0: before the first round).
    uint32 committedRound;
    uint32 committedAttempt;
    bytes32 commitment;
    bytes32 permit;
    /// Of masked plans: the two that were brought last. Which of them counts in the current attempt, if
    /// any, follows from its `Masking.keyed` and `Masking.renewed`.
    bytes32 receivingKey;
    bytes32 nextReceivingKey;
    bytes32 meta;
}

struct Plan {
    uint8 proposer;
    PlanStatus status;
    /// The stage of the next round that is not a further attempt.
    uint8 stage;
    /// Recent seconds from close to the round's end, smoothed: what leader slots are cut from.
    uint32 mergeS;
    /// The current round and attempt; no round yet if the attempt is 0.
    uint32 round;
    uint32 attempt;
    /// How long the invited may decide.
    uint64 until;
    /// No participant's consent ends before it; 0: none that was counted ends at all.
    uint64 soonest;
    /// Whether the others may not take part.
    bool invitedOnly;
    Rules rules;
    uint256 participants;
    /// Whose newest consent has the duty TRAIN, and HOLD; some may have withdrawn since.
    uint256 trainers;
    uint256 holders;
    uint256 invited;
    uint256 declined;
    /// Everybody who ever consented.
    uint256 consented;
    uint256 stopVotes;
    /// Whose masked sum was opened and was spoiled: exactly these train in the next attempt.
    uint256 spoiled;
    bytes32 code;
    bytes32 program;
    bytes32 base;
    bytes32 seed;
    /// By slot; the first is the newest final model, `base` before the first.
    bytes32[4] outputs;
    uint32[4] outputRounds;
    string name;
    mapping(uint8 member => Consent) consents;
}

struct Submission {
    bytes32 update;
    bytes32 meta;
    uint64 samples;
}

/// @dev What is voted on: attestations count only for one that is equal in every field.
struct Outcome {
    bytes32 model;
    uint256 omitted;
    /// The plan's output that `model` becomes.
    uint8 slot;
    /// The stage of the round that follows, counted from 1; 0 completes the plan.
    uint8 next;
}

struct Candidate {
    uint8 leader;
    uint8 slot;
    uint8 next;
    uint64 postedAt;
    bytes32 model;
    uint256 omitted;
    uint256 attesters;
    bytes reasons;
}

/// @dev What a masked round has more. Shares, codes and keys are in the events: no rule needs them.
struct Masking {
    /// Height of the block in which the attempt was opened: its events begin there.
    uint64 since;
    /// When this epoch began.
    uint48 beganAt;
    /// Where the candidates begin that are voted on now, in `Round.candidates`.
    uint32 first;
    /// Those who mask among themselves in this epoch; once locked, whose sum comes out.
    uint256 contributors;
    /// Of them, those whose masked updates stand on the chain.
    uint256 posted;
    /// The dealers whom enough of the roster call good.
    uint256 wellDealt;
    /// Who has revealed its shares, and who votes for giving the locked round up.
    uint256 opened;
    uint256 abandoned;
    /// Who was left behind when the attempt was given up: others go first in the next.
    uint256 behind;
    /// Whose receiving keys count in this attempt, and who has brought one for the next.
    uint256 keyed;
    uint256 renewed;
    /// The masked sum, once it is locked.
    bytes32 sum;
    /// How many call each dealer good, as columns of bits: word k has bit k of every dealer's count.
    uint256[9] tallies;
    /// By judge, the dealers whose shares for it are right, and those whose are wrong.
    mapping(uint8 judge => uint256) good;
    mapping(uint8 judge => uint256) complaints;
    /// By epoch and dealer, the complainants that were answered.
    mapping(uint256 key => uint256) answered;
}

struct Round {
    // One word of storage, hence the narrow times.
    RoundStatus status;
    uint48 openedAt;
    /// Participants seen since then (when the attempt before was opened) count as live at the
    /// opening, however long ago that was; those silent throughout it are not waited for.
    uint48 creditFrom;
    /// When the minPeers-th submission came; 0 before.
    uint48 minPeersAt;
    uint48 closedAt;
    uint24 slotS;
    uint8 stage;
    uint16 holder;
    uint8 epoch;
    bytes32 base;
    uint256 roster;
    /// Of the roster, those who train: only they submit, and are waited for.
    uint256 trainers;
    /// Roster members that withdrew while the round ran.
    uint256 left;
    /// Who submitted; from the close on, the frozen submitters.
    uint256 submitted;
    uint256 revealed;
    uint256 revealsXor;
    bytes32 seed;
    Candidate[] candidates;
    /// By the digest of the outcome: its candidate's place, counted from 1.
    mapping(bytes32 outcome => uint256) places;
    mapping(uint8 member => Submission) submissions;
    Masking masking;
}

struct State {
    // Members.
    uint256 presentMembers;
    uint256 endorsed;
    uint256 validators;
    /// Turns the validators where there are more than the most: a final round's seed.
    bytes32 rotation;
    uint64 version;
    uint64 nextVersion;
    uint64 nextHeight;
    /// Every member there ever was, by number; numbers are not given twice.
    Member[] members;
    Proposal[] proposals;
    /// Member number + 1, so that 0 says "nobody's".
    mapping(address key => uint256) byAccount;
    mapping(address key => uint256) byNode;
    mapping(address key => uint256) byStandby;
    /// By the digest of the name, of present members.
    mapping(bytes32 name => uint256) byName;
    mapping(uint8 member => Budget) budgets;
    // Plans. Number n is at index n - 1.
    Plan[] plans;
    /// Proposed and neither completed nor stopped.
    mapping(uint8 proposer => uint256) openPlans;
    // Rounds, by plan, then by round and attempt.
    mapping(uint256 plan => mapping(uint256 key => Round)) rounds;
    /// Masked rounds: the digest of the one set whose sum over (base, task) may be opened.
    mapping(bytes32 base => mapping(bytes32 task => bytes32)) locks;
    /// What a member has posted as keys, by the digest of its number and the key.
    mapping(bytes32 posted => bool) usedKeys;
}

/// @dev Where a round's record lies under its plan.
function roundKey(uint32 round, uint32 attempt) pure returns (uint256) {
    return (uint256(round) << 32) | attempt;
}

/// @dev The contract's storage, for what runs on it.
function stored() pure returns (State storage state) {
    assembly {
        state.slot := 0
    }
}
