// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {
    Candidate,
    Consent,
    Masking,
    Outcome,
    PLAIN,
    Plan,
    Round,
    RoundStatus,
    State,
    stored
} from "./State.sol";
import {Steps} from "./Steps.sol";

/// @title Masked rounds: between the close of a round and its end, when only a sum may come out.
/// @notice Members post the digests of their masked updates themselves; votes lock one set of them and
/// their sum; then shares are published that open that sum and no other (docs/decisions/0019). Its
/// functions run on the contract's storage. What only members' nodes read (keys, codes, shares) is in
/// the events, so that no transaction costs much more with many members.
library MaskedRounds {
    using MemberSets for uint256;
    using MemberSets for uint8;

    /// @dev At most so many sets of contributors in one attempt.
    uint8 internal constant EPOCHS = 3;
    uint256 internal constant X25519_BYTES = 32;
    uint256 internal constant POINT_BYTES = 33;
    uint256 internal constant SHARE_BYTES = 32;
    uint256 internal constant CODE_BYTES = 8;
    /// @dev A key, a commitment for each epoch, the envelope's digest, the next receiving key.
    uint256 internal constant KEYS_BYTES = X25519_BYTES + EPOCHS * POINT_BYTES + 32 + X25519_BYTES;
    uint256 internal constant TALLIES = 9;

    error RoundKeyNotDue(uint8 member);
    error RoundNoKey(uint8 member);
    error RoundWrongEpoch(uint8 given, uint8 now);
    error RoundAlreadyMasked(uint8 member);
    error RoundBadDealers(uint256 dealers, uint256 complaints);
    error RoundNoComplaint(uint8 epoch, uint8 complainant);
    error RoundNotRemaskable(uint32 round, uint32 attempt);
    error RoundNotLockable(uint32 round, uint32 attempt);
    error RoundNotOpen(uint32 round, uint32 attempt);
    error RoundAlreadyUnmasked(uint8 member);

    event KeyRenewed(
        uint256 indexed plan, uint32 round, uint32 attempt, uint8 indexed member, bytes32 key
    );
    event Masked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint8 epoch,
        bytes32 masked,
        bytes macs
    );
    event SharesJudged(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint256 dealers,
        uint256 complaints
    );
    event ShareAnswered(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed dealer,
        uint8 epoch,
        uint8 complainant,
        bytes share
    );
    event EpochBegan(
        uint256 indexed plan, uint32 round, uint32 attempt, uint8 epoch, uint256 contributors
    );
    event RoundLocked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        bytes32 sum,
        uint256 contributors
    );
    event Unmasked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint256 owners,
        bytes shares
    );
    event AbandonVoted(
        uint256 indexed plan, uint32 round, uint32 attempt, uint8 indexed member
    );

    // Asked by the contract, in the order of a round.

    /// @notice The keys of a submission, which the same member never posted before. That others may
    /// have is no reason to refuse them: whoever builds the block could copy them first.
    function takeKeys(
        Consent storage own,
        Round storage current,
        uint8 member,
        bytes calldata keys
    ) external {
        if (keys.length != KEYS_BYTES) revert Steps.RoundBadKeys(keys.length);
        _useUp(member, keys[:X25519_BYTES], keys.length);
        for (uint256 epoch = 0; epoch < EPOCHS; ++epoch) {
            uint256 at = X25519_BYTES + epoch * POINT_BYTES;
            _useUp(member, keys[at:at + POINT_BYTES], keys.length);
        }
        _takeReceivingKey(own, current, member, bytes32(keys[KEYS_BYTES - X25519_BYTES:]), keys.length);
    }

    /// @notice A receiving key that comes without a submission: one, and never posted before.
    function takeReceivingKey(
        Consent storage own,
        Round storage current,
        uint8 member,
        bytes32 key
    ) external {
        _takeReceivingKey(own, current, member, key, key == 0 ? 0 : X25519_BYTES);
    }

    /// @notice The close of a masked round: all who submitted are to mask among themselves.
    function begin(Round storage current) external {
        current.status = RoundStatus.MASKING;
        current.masking.contributors = current.submitted;
        current.masking.beganAt = uint48(block.timestamp);
    }

    // Transactions.

    /// @notice Bring the key to which shares are sealed from the next attempt on, as a member of the
    /// roster that sends no update in this one. Who trains brings it with the submission, and may bring
    /// it so only once it is too late for that.
    function renewKey(uint256 plan, uint32 round, uint32 attempt, bytes32 key) external {
        (uint8 member, Plan storage record, Round storage current) =
            Steps.inRound(plan, round, attempt, true);
        bool trains = current.status == RoundStatus.OPEN && current.trainers & member.bit() != 0;
        bool isPlain = record.rules.colluders == PLAIN;
        if (isPlain || trains || current.masking.renewed & member.bit() != 0) {
            revert RoundKeyNotDue(member);
        }
        _takeReceivingKey(
            record.consents[member], current, member, key, key == 0 ? 0 : X25519_BYTES
        );
        Steps.saw(record, member);
        emit KeyRenewed(plan, round, attempt, member, key);
    }

    /// @notice Post the digest of one's masked update; `macs` has one short code for each pair.
    function masked(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        bytes32 digest,
        bytes calldata macs
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _masking(plan, round, attempt);
        Masking storage masking = current.masking;
        if (epoch != current.epoch) revert RoundWrongEpoch(epoch, current.epoch);
        uint256 contributors = masking.contributors;
        if (contributors & member.bit() == 0) revert Steps.RoundNotSubmitter(member);
        uint256 posted = masking.posted;
        if (posted & member.bit() != 0) revert RoundAlreadyMasked(member);
        if (digest == 0) revert Steps.RoundBadDigest();
        if (macs.length != CODE_BYTES * (contributors.count() - 1)) revert Steps.RoundBadKeys(macs.length);
        posted |= member.bit();
        masking.posted = posted;
        // The leaders' slots begin.
        if (posted == contributors) current.closedAt = uint48(block.timestamp);
        Steps.saw(record, member);
        emit Masked(plan, round, attempt, member, epoch, digest, macs);
    }

    /// @notice Say whose shares for oneself are right, and whose are not; more of either later. A
    /// complaint alone evicts nobody: the dealer answers it. Who has no key that counts was dealt no
    /// shares.
    function good(uint256 plan, uint32 round, uint32 attempt, uint256 dealers, uint256 complaints)
        external
    {
        (uint8 member, Plan storage record, Round storage current) = _masking(plan, round, attempt);
        Masking storage masking = current.masking;
        if (masking.keyed & member.bit() == 0) revert RoundNoKey(member);
        if ((dealers | complaints) & ~current.submitted != 0 || dealers & complaints != 0) {
            revert RoundBadDealers(dealers, complaints);
        }
        uint256 before = masking.good[member];
        if (dealers & ~before != 0) {
            masking.good[member] = before | dealers;
            _tally(current, dealers & ~before, record.rules.colluders);
        }
        if (complaints != 0) masking.complaints[member] |= complaints;
        Steps.saw(record, member);
        emit SharesJudged(plan, round, attempt, member, dealers, complaints);
    }

    /// @notice Publish a share that was complained about: then anyone can check it.
    function answer(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        uint8 complainant,
        bytes calldata share
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _masking(plan, round, attempt);
        Masking storage masking = current.masking;
        uint256 key = uint256(epoch) << 8 | member;
        if (
            epoch != current.epoch || masking.complaints[complainant] & member.bit() == 0
                || masking.answered[key] & complainant.bit() != 0
        ) revert RoundNoComplaint(epoch, complainant);
        if (share.length != SHARE_BYTES) revert Steps.RoundBadKeys(share.length);
        masking.answered[key] |= complainant.bit();
        Steps.saw(record, member);
        emit ShareAnswered(plan, round, attempt, member, epoch, complainant, share);
    }

    /// @notice Mask afresh among those who posted in time, are still there, and have dealt well; or
    /// give the attempt up, if those are too few, or this was the last epoch.
    function nextEpoch(uint256 plan, uint32 round, uint32 attempt) external {
        (, Plan storage record, Round storage current) = _masking(plan, round, attempt);
        Masking storage masking = current.masking;
        uint256 contributors = masking.contributors;
        uint256 remaining =
            contributors & masking.posted & masking.wellDealt & Steps.presentIn(current);
        uint256 patienceS = 2 * uint256(current.slotS);
        if (patienceS < record.rules.livenessS) patienceS = record.rules.livenessS;
        if (remaining == contributors || block.timestamp < masking.beganAt + patienceS) {
            revert RoundNotRemaskable(round, attempt);
        }
        // Rules have at least two more of them than colluders.
        if (remaining.count() < record.rules.minPeers || current.epoch + 1 == EPOCHS) {
            masking.behind = current.submitted & ~remaining;
            Steps.voidAttempt(plan, record, current);
            return;
        }
        uint8 epoch = ++current.epoch;
        masking.contributors = remaining;
        masking.beganAt = uint48(block.timestamp);
        masking.first = uint32(current.candidates.length);
        masking.posted = 0;
        emit EpochBegan(plan, round, attempt, epoch, remaining);
    }

    /// @notice Reveal one's shares of the self masks of the locked sum's contributors: once, and also
    /// if one has withdrawn from the plan since.
    function unmask(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint256 owners,
        bytes calldata shares
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _locked(plan, round, attempt);
        Masking storage masking = current.masking;
        if (masking.opened & member.bit() != 0) revert RoundAlreadyUnmasked(member);
        if (owners != masking.contributors || shares.length != SHARE_BYTES * owners.count()) {
            revert Steps.RoundBadKeys(shares.length);
        }
        masking.opened |= member.bit();
        Steps.saw(record, member);
        emit Unmasked(plan, round, attempt, member, owners, shares);
    }

    /// @notice Vote for giving a locked round up, and the plan with it.
    function abandon(uint256 plan, uint32 round, uint32 attempt) external {
        (uint8 member, Plan storage record, Round storage current) = _locked(plan, round, attempt);
        uint256 votes = current.masking.abandoned | member.bit();
        current.masking.abandoned = votes;
        emit AbandonVoted(plan, round, attempt, member);
        if (votes.count() >= current.roster.count().majority()) Steps.stop(plan, record, current);
    }

    // The contract's own transactions, where a plan is masked.

    /// @notice As `merge` of the contract: a vote on the sum, or on the model once that is locked.
    function merge(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        bytes calldata reasons
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _votable(plan, round, attempt);
        Steps.checkLeader(current, member);
        // No model: the sum was spoiled.
        if (outcome.model == 0 && current.status != RoundStatus.LOCKED) revert Steps.RoundBadDigest();
        Steps.checkOutcome(current, outcome);
        // The set of contributors says whose updates are in it.
        if (outcome.omitted != 0 || reasons.length != 0) revert Steps.RoundBadOmission(outcome.omitted);
        _decide(plan, record, current, Steps.post(plan, record, current, member, outcome, reasons));
    }

    /// @notice As `attest` of the contract.
    function attest(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        uint8 level,
        bytes32 meta
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _votable(plan, round, attempt);
        uint256 voters = _voters(current);
        _decide(
            plan,
            record,
            current,
            Steps.attest(plan, record, current, voters, member, outcome, level, meta)
        );
    }

    /// @notice As `attestMany` of the contract.
    function attestMany(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        uint8 level,
        bytes32[] calldata metas,
        bytes[] calldata signatures
    ) external {
        (, Plan storage record, Round storage current) = _votable(plan, round, attempt);
        uint256 voters = _voters(current);
        _decide(
            plan,
            record,
            current,
            Steps.carry(plan, record, current, voters, outcome, level, metas, signatures)
        );
    }

    // Steps.

    /// @dev A sum that enough contributors attest is locked; a model that more than half of the opening
    /// roster attest is final. Nobody's leaving changes what is counted.
    function _decide(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate
    ) private {
        uint256 voters = _voters(current);
        uint256 attesters = candidate.attesters & voters;
        bool isLocked = current.status == RoundStatus.LOCKED;
        uint256 needed = voters.count().majority();
        if (!isLocked && needed <= record.rules.colluders) needed = uint256(record.rules.colluders) + 1;
        if (attesters.count() < needed) return;
        if (!isLocked) {
            _lock(plan, record, current, candidate);
        } else if (candidate.model == 0) {
            // The sum was spoiled: the same set comes again, or nobody.
            record.spoiled = current.masking.contributors;
            Steps.voidAttempt(plan, record, current);
        } else {
            record.spoiled = 0;
            Steps.conclude(plan, record, current, candidate, attesters, Steps.submitters(current));
        }
    }

    /// @dev Lock the contributors and their sum, unless another set is locked over this base already.
    function _lock(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate
    ) private {
        Masking storage masking = current.masking;
        mapping(bytes32 task => bytes32) storage locks = stored().locks[current.base];
        bytes32 set = keccak256(abi.encode(masking.contributors));
        bytes32 everyones = bytes32(uint256(candidate.slot));
        bytes32 task = record.rules.reopens ? bytes32(plan << 8 | candidate.slot) : everyones;
        if (locks[task] != 0 && locks[task] != set) {
            Steps.voidAttempt(plan, record, current);
            return;
        }
        locks[task] = set;
        if (locks[everyones] == 0) locks[everyones] = set;
        masking.sum = candidate.model;
        masking.first = uint32(current.candidates.length);
        current.status = RoundStatus.LOCKED;
        current.closedAt = uint48(block.timestamp);
        emit RoundLocked(
            plan, record.round, record.attempt, current.epoch, candidate.model, masking.contributors
        );
    }

    /// @dev Count one judge more for each of these dealers; who reaches enough has dealt well. Adds to
    /// all counts at once, as to numbers whose bits lie in columns, so that it costs the same for many.
    function _tally(Round storage current, uint256 dealers, uint8 colluders) private {
        Masking storage masking = current.masking;
        uint256 needed = (current.roster.count() + colluders) / 2 + 1;
        uint256 carried = dealers;
        uint256 reached = dealers;
        for (uint256 bit = 0; bit < TALLIES; ++bit) {
            uint256 column = masking.tallies[bit];
            uint256 changed = column ^ carried;
            if (carried != 0) masking.tallies[bit] = changed;
            carried &= column;
            reached &= needed >> bit & 1 != 0 ? changed : ~changed;
        }
        if (reached != 0) masking.wellDealt |= reached;
    }

    /// @dev The last two keys stay: shares of this attempt are sealed to what counted at its opening.
    function _takeReceivingKey(
        Consent storage own,
        Round storage current,
        uint8 member,
        bytes32 key,
        uint256 size
    ) private {
        if (key == 0) revert Steps.RoundBadKeys(size);
        _useUp(member, abi.encodePacked(key), size);
        uint256 renewed = current.masking.renewed;
        if (renewed & member.bit() == 0) {
            current.masking.renewed = renewed | member.bit();
            if (own.nextReceivingKey != 0) own.receivingKey = own.nextReceivingKey;
        }
        own.nextReceivingKey = key;
    }

    function _useUp(uint8 member, bytes memory key, uint256 size) private {
        State storage state = stored();
        bytes32 posted = keccak256(abi.encodePacked(member, key));
        if (state.usedKeys[posted]) revert Steps.RoundBadKeys(size);
        state.usedKeys[posted] = true;
    }

    /// @dev Who votes: the contributors on their masked sum, then the opening roster on the model.
    function _voters(Round storage current) private view returns (uint256) {
        return current.status == RoundStatus.LOCKED ? current.roster : current.masking.contributors;
    }

    /// @dev A member of the roster and its round, if that is to be voted on.
    function _votable(uint256 plan, uint32 round, uint32 attempt)
        private
        view
        returns (uint8 member, Plan storage record, Round storage current)
    {
        Membership.operator();
        record = Steps.running(plan);
        if (Steps.current(plan, record).status == RoundStatus.LOCKED) {
            (member, record, current) = _locked(plan, round, attempt);
            uint256 needed = (current.roster.count() + record.rules.colluders) / 2 + 1;
            if (current.masking.opened.count() < needed) revert RoundNotOpen(round, attempt);
        } else {
            (member, record, current) = _masking(plan, round, attempt);
            if (!Steps.mayLock(current)) revert RoundNotLockable(round, attempt);
        }
    }

    /// @dev A member of the roster that is still there, and its round while that is masked.
    function _masking(uint256 plan, uint32 round, uint32 attempt)
        private
        view
        returns (uint8 member, Plan storage record, Round storage current)
    {
        (member, record, current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.MASKING);
    }

    /// @dev A member of the opening roster, whoever has withdrawn since, and its locked round.
    function _locked(uint256 plan, uint32 round, uint32 attempt)
        private
        view
        returns (uint8 member, Plan storage record, Round storage current)
    {
        member = Membership.operator();
        record = Steps.running(plan);
        current = Steps.currentIn(plan, record, round, attempt);
        if (current.roster & member.bit() == 0) revert Steps.RoundNotInRoster(member);
        Steps.require_(current, RoundStatus.LOCKED);
    }
}
