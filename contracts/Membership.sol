// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";
import {Names} from "./Names.sol";
import {Signatures} from "./Signatures.sol";
import {
    Budget,
    Founder,
    Kind,
    MAX_MEMBERS,
    MAX_NAME_BYTES,
    Member,
    Proposal,
    ProposalStatus,
    stored
} from "./State.sol";

/// @title Who belongs to the consortium, and whose nodes finalise blocks.
/// @notice Members decide about members; nobody owns this contract and nobody can pause it. An
/// account governs (it votes, and may be cold or a multisig); a node key works (it signs rounds and
/// blocks). More than half of the members admit or remove; whatever changes who can finalise blocks
/// needs two thirds of the endorsed: founders, and those whom two thirds of the endorsed backed. The
/// library's functions run on the contract's storage; the internal ones are part of the contract.
library Membership {
    using MemberSets for uint256;
    using MemberSets for uint8;

    uint256 internal constant MAX_VALIDATORS = 21;
    uint256 internal constant PROPOSAL_LIFETIME_S = 30 days;
    uint256 internal constant DORMANT_S = 7 days;
    uint256 internal constant MAX_CONTACT_BYTES = 512;
    uint256 internal constant CONTACT_EVERY_S = 60;
    /// @dev Membership proposals, and plans, that one member may make in a day of chain time.
    uint8 internal constant MAX_A_DAY = 16;
    bytes32 private constant NODE_KEY_TYPE = keccak256("NodeKey(uint8 member)");

    error ConsortiumNoFounders();
    error ConsortiumNotMember(address sender);
    error ConsortiumUnknownMember(uint64 member);
    error ConsortiumZeroAddress();
    error ConsortiumKeyInUse(address key);
    error ConsortiumBadProof(address key);
    error ConsortiumBadName(uint256 size);
    error ConsortiumNameInUse(uint8 member);
    error ConsortiumFull();
    error ConsortiumBadKind();
    error ConsortiumBadVersion(uint64 version);
    error ConsortiumNoSuchProposal(uint256 proposal);
    error ConsortiumProposalClosed(uint256 proposal);
    error ConsortiumNotProposer(uint256 proposal, uint8 member);
    error ConsortiumAlreadyVoted(uint256 proposal, uint8 member);
    error ConsortiumLastMember();
    error ConsortiumLastValidator();
    error ConsortiumNotEndorsed(uint8 member);
    error ConsortiumNotDormant(uint8 member, uint64 until);
    error ConsortiumTooFewAwake(uint256 awake, uint256 needed);
    error ConsortiumBadContact(uint256 size);
    error ConsortiumTooSoon(uint8 member, uint64 from);
    error ConsortiumBudget(uint8 member, uint64 from);

    event MemberAdmitted(uint8 indexed member, address account, address node, string name);
    event MemberRemoved(uint8 indexed member);
    event NodeChanged(uint8 indexed member, address from, address to);
    event StandbyChanged(uint8 indexed member, address standby);
    event ContactChanged(uint8 indexed member, bytes contact);
    event ValidatorEndorsed(uint8 indexed member);
    event ValidatorActivated(uint8 indexed member);
    event ValidatorRetired(uint8 indexed member);
    event Proposed(
        uint256 indexed proposal,
        uint8 kind,
        uint8 indexed proposer,
        address account,
        address node,
        string name,
        uint64 target,
        uint64 height
    );
    event Voted(uint256 indexed proposal, uint8 indexed member, bool support);
    event Passed(uint256 indexed proposal);
    event ProposalCancelled(uint256 indexed proposal);
    event VersionScheduled(uint64 version, uint64 height);

    // Governing: what a member's account may do.

    /// @notice Open a proposal and vote for it with the same transaction.
    /// @dev In a consortium where one vote suffices it is carried out at once.
    /// A library's functions take enums as numbers, or their selectors would be other ones.
    /// @param kind ADMIT (`account`, `node`, `name`), REMOVE (`target`: member number) or UPGRADE
    /// (`target`: protocol version, `height`: the block from which it holds).
    /// @return number The proposal's number, counted from 1.
    function propose(
        uint8 kind,
        address account,
        address node,
        string calldata name,
        uint64 target,
        uint64 height
    ) external returns (uint256 number) {
        uint8 member = governor();
        if (kind == 0 || kind > uint8(type(Kind).max)) revert ConsortiumBadKind();
        if (Kind(kind) == Kind.ADMIT) {
            _checkNewKeys(account, node, name);
        } else {
            if (bytes(name).length != 0) revert ConsortiumBadName(bytes(name).length);
            if (Kind(kind) == Kind.REMOVE) _present(target);
            else if (target <= version()) revert ConsortiumBadVersion(target);
        }
        Budget storage budget = budgetOf(member);
        if (budget.proposals >= MAX_A_DAY) refuseBudget(member, budget);
        ++budget.proposals;
        Proposal storage proposal = stored().proposals.push();
        number = stored().proposals.length;
        proposal.kind = Kind(kind);
        proposal.status = ProposalStatus.OPEN;
        proposal.proposer = member;
        proposal.openedAt = uint64(block.timestamp);
        proposal.target = target;
        proposal.height = height;
        proposal.account = account;
        proposal.node = node;
        proposal.name = name;
        emit Proposed(number, kind, member, account, node, name, target, height);
        _vote(member, number, proposal, true);
    }

    /// @notice Vote once on a proposal; the vote that completes the threshold carries it out.
    /// @dev WARNING: a vote cannot be taken back. An admission that has passed still takes ayes, for
    /// as long as a proposal lives: two thirds of the endorsed endorse the newcomer, whose node may then
    /// validate and whose own votes count in later endorsements.
    function vote(uint256 number, bool support) external {
        uint8 member = governor();
        _vote(member, number, _proposal(number), support);
    }

    /// @notice Take an open proposal of one's own back.
    function cancel(uint256 number) external {
        uint8 member = governor();
        Proposal storage proposal = _proposal(number);
        if (proposal.proposer != member) revert ConsortiumNotProposer(number, member);
        if (proposal.status != ProposalStatus.OPEN || _hasLapsed(proposal)) {
            revert ConsortiumProposalClosed(number);
        }
        proposal.status = ProposalStatus.CANCELLED;
        emit ProposalCancelled(number);
    }

    /// @notice End one's own membership.
    /// @dev WARNING: takes effect at once and for every plan. Only a vote of the others undoes it,
    /// under a new member number.
    function leave() external {
        uint8 member = governor();
        _checkRemovable(member);
        _remove(member);
    }

    /// @notice Name another node key; the old one can do nothing from here on.
    /// @dev WARNING: the member stops validating until the new node, once synced, calls `activate`.
    /// A standby that becomes the node is none any more, whosever it was.
    /// @param proof The new key's signature (EIP-712) of `NodeKey(uint8 member)`: nobody can name a key
    /// that it does not have, and keep it from whoever does.
    function setNode(address node, bytes calldata proof) external {
        uint8 member = governor();
        if (node == address(0)) revert ConsortiumZeroAddress();
        Member storage record = stored().members[member];
        address old = record.node;
        if (
            stored().byNode[node] != 0 || !_isFreeOrOf(stored().byAccount[node], member)
        ) revert ConsortiumKeyInUse(node);
        bytes32 signed = Signatures.digest(keccak256(abi.encode(NODE_KEY_TYPE, member)));
        if (Signatures.signer(signed, proof) != node) revert ConsortiumBadProof(node);
        if (stored().validators & member.bit() != 0) _checkNotLastValidator(member);
        _endClaim(node);
        delete stored().byNode[old];
        stored().byNode[node] = uint256(member) + 1;
        record.node = node;
        stored().validators &= ~member.bit();
        emit NodeChanged(member, old, node);
    }

    /// @notice Name a second node, which may synchronise and nothing else; 0: none.
    function setStandby(address standby) external {
        uint8 member = governor();
        Member storage record = stored().members[member];
        if (standby != address(0)) {
            _checkFree(standby);
            if (stored().byStandby[standby] != 0) revert ConsortiumKeyInUse(standby);
        }
        delete stored().byStandby[record.standby];
        if (standby != address(0)) stored().byStandby[standby] = uint256(member) + 1;
        record.standby = standby;
        emit StandbyChanged(member, standby);
    }

    // Working: what a member's node may do.

    /// @notice State where one's node can be reached: its signed addresses, once a minute.
    function setContact(bytes calldata contact) external {
        uint8 member = operator();
        if (contact.length > MAX_CONTACT_BYTES) revert ConsortiumBadContact(contact.length);
        Member storage record = stored().members[member];
        uint64 last = record.contactAt;
        if (last != 0 && block.timestamp < last + CONTACT_EVERY_S) {
            revert ConsortiumTooSoon(member, last + uint64(CONTACT_EVERY_S));
        }
        record.contact = contact;
        record.contactAt = uint64(block.timestamp);
        saw(member);
        emit ContactChanged(member, contact);
    }

    /// @notice Become a validator, once synced. Repeated, it only shows life.
    function activate() external {
        uint8 member = operator();
        uint256 bit = member.bit();
        if (stored().endorsed & bit == 0) revert ConsortiumNotEndorsed(member);
        if (stored().validators & bit == 0) {
            stored().validators |= bit;
            emit ValidatorActivated(member);
        }
        saw(member);
    }

    /// @notice Take a validator off that has sent nothing for seven days. Any member may.
    /// @dev Refused unless two thirds of the validators have been seen since: when a whole consortium
    /// slept, the first to wake must not be able to retire all the others and finalise alone.
    function retire(uint8 target) external {
        either();
        _present(target);
        uint64 until = stored().members[target].seenAt + uint64(DORMANT_S);
        if (stored().validators & target.bit() == 0 || block.timestamp <= until) {
            revert ConsortiumNotDormant(target, until);
        }
        uint256 awake = 0;
        for (uint256 left = stored().validators; left != 0; left = left.dropLowest()) {
            if (block.timestamp <= stored().members[left.lowest()].seenAt + DORMANT_S) ++awake;
        }
        uint256 needed = stored().validators.count().twoThirds();
        if (awake < needed) revert ConsortiumTooFewAwake(awake, needed);
        stored().validators &= ~target.bit();
        emit ValidatorRetired(target);
    }

    // What the contract itself needs.

    /// @dev Founders are numbered in the given order, endorsed, and validate from the first block.
    function found(Founder[] memory founders) internal {
        if (founders.length == 0) revert ConsortiumNoFounders();
        stored().version = stored().nextVersion = 1;
        for (uint256 i = 0; i < founders.length; ++i) {
            Founder memory founder = founders[i];
            uint8 member = _admit(founder.account, founder.node, founder.name);
            stored().endorsed |= member.bit();
            stored().validators |= member.bit();
            emit ValidatorEndorsed(member);
            emit ValidatorActivated(member);
        }
    }

    /// @dev The nodes that finalise the next block.
    function validators() internal view returns (address[] memory nodes) {
        uint256 total = stored().validators.count();
        uint256 size = total < MAX_VALIDATORS ? total : MAX_VALIDATORS;
        uint256 start = total > MAX_VALIDATORS ? uint256(stored().rotation) % total : 0;
        nodes = new address[](size);
        uint256 place = 0;
        for (uint256 left = stored().validators; left != 0; left = left.dropLowest()) {
            uint256 turn = (place + total - start) % total;
            if (turn < size) nodes[turn] = stored().members[left.lowest()].node;
            ++place;
        }
    }

    function version() internal view returns (uint64) {
        return block.number >= stored().nextHeight ? stored().nextVersion : stored().version;
    }

    /// @dev The member whose account signed.
    function governor() internal view returns (uint8) {
        return _numbered(stored().byAccount[msg.sender]);
    }

    /// @dev The member whose node signed.
    function operator() internal view returns (uint8) {
        return _numbered(stored().byNode[msg.sender]);
    }

    /// @dev The member whose account or node signed.
    function either() internal view returns (uint8) {
        uint256 index = stored().byAccount[msg.sender];
        return _numbered(index != 0 ? index : stored().byNode[msg.sender]);
    }

    function saw(uint8 member) internal {
        stored().members[member].seenAt = uint64(block.timestamp);
    }

    /// @dev What a member has proposed today.
    function budgetOf(uint8 member) internal returns (Budget storage budget) {
        budget = stored().budgets[member];
        uint64 today = uint64(block.timestamp / 1 days);
        if (budget.day != today) (budget.day, budget.proposals, budget.plans) = (today, 0, 0);
    }

    function refuseBudget(uint8 member, Budget storage budget) internal view {
        revert ConsortiumBudget(member, (budget.day + 1) * 1 days);
    }

    function _numbered(uint256 index) private view returns (uint8) {
        if (index == 0) revert ConsortiumNotMember(msg.sender);
        return uint8(index - 1);
    }

    function _present(uint64 target) private view returns (uint8) {
        if (target >= MAX_MEMBERS || stored().presentMembers & (1 << target) == 0) {
            revert ConsortiumUnknownMember(target);
        }
        return uint8(target);
    }

    function _proposal(uint256 number) private view returns (Proposal storage) {
        if (number == 0 || number > stored().proposals.length) revert ConsortiumNoSuchProposal(number);
        return stored().proposals[number - 1];
    }

    function _hasLapsed(Proposal storage proposal) private view returns (bool) {
        return block.timestamp > proposal.openedAt + PROPOSAL_LIFETIME_S;
    }

    function _vote(uint8 member, uint256 number, Proposal storage proposal, bool support) private {
        Kind kind = proposal.kind;
        ProposalStatus status = proposal.status;
        bool isOpen = status == ProposalStatus.OPEN;
        bool endorsing = status == ProposalStatus.PASSED && kind == Kind.ADMIT;
        if (_hasLapsed(proposal) || !(isOpen || endorsing)) revert ConsortiumProposalClosed(number);
        uint256 bit = member.bit();
        if ((proposal.ayes | proposal.noes) & bit != 0) revert ConsortiumAlreadyVoted(number, member);
        emit Voted(number, member, support);
        if (support) proposal.ayes |= bit;
        else proposal.noes |= bit;
        if (isOpen && _carries(proposal)) {
            proposal.status = ProposalStatus.PASSED;
            emit Passed(number);
            _enact(proposal);
            endorsing = kind == Kind.ADMIT;
        }
        if (endorsing) _endorse(proposal);
    }

    /// @dev A bare majority must not be able to change who can finalise blocks, nor to admit members
    /// of its own until it is two thirds: so only the endorsed are counted there.
    function _carries(Proposal storage proposal) private view returns (bool) {
        Kind kind = proposal.kind;
        if (
            kind == Kind.UPGRADE
                || (kind == Kind.REMOVE && stored().validators & (1 << proposal.target) != 0)
        ) return _isBacked(proposal);
        uint256 present = stored().presentMembers;
        return (proposal.ayes & present).count() >= present.count().majority();
    }

    /// @dev Whether two thirds of the endorsed members are for it. There is always one: validators
    /// are endorsed, and the last validator cannot go.
    function _isBacked(Proposal storage proposal) private view returns (bool) {
        uint256 voters = stored().presentMembers & stored().endorsed;
        return (proposal.ayes & voters).count() >= voters.count().twoThirds();
    }

    function _enact(Proposal storage proposal) private {
        Kind kind = proposal.kind;
        if (kind == Kind.ADMIT) {
            proposal.admitted = _admit(proposal.account, proposal.node, proposal.name);
        } else if (kind == Kind.REMOVE) {
            uint8 target = _present(proposal.target);
            _checkRemovable(target);
            _remove(target);
        } else {
            uint64 current = version();
            if (proposal.target <= current) revert ConsortiumBadVersion(proposal.target);
            stored().version = current;
            stored().nextVersion = proposal.target;
            stored().nextHeight = proposal.height;
            emit VersionScheduled(proposal.target, proposal.height);
        }
    }

    /// @dev The newcomer is not among the endorsed yet, so it does not endorse itself.
    function _endorse(Proposal storage proposal) private {
        uint256 bit = proposal.admitted.bit();
        if (stored().endorsed & bit != 0 || !_isBacked(proposal)) return;
        stored().endorsed |= bit;
        emit ValidatorEndorsed(proposal.admitted);
    }

    function _admit(address account, address node, string memory name) private returns (uint8 member) {
        _checkNewKeys(account, node, name);
        member = uint8(stored().members.length);
        Member storage record = stored().members.push();
        _endClaim(account);
        _endClaim(node);
        record.account = account;
        record.seenAt = uint64(block.timestamp);
        record.node = node;
        record.name = name;
        uint256 index = uint256(member) + 1;
        stored().byAccount[account] = index;
        stored().byNode[node] = index;
        stored().byName[keccak256(bytes(name))] = index;
        stored().presentMembers |= member.bit();
        emit MemberAdmitted(member, account, node, name);
    }

    function _checkNewKeys(address account, address node, string memory name) private view {
        if (account == address(0) || node == address(0)) revert ConsortiumZeroAddress();
        _checkFree(account);
        _checkFree(node);
        uint256 size = bytes(name).length;
        if (size == 0 || size > MAX_NAME_BYTES) revert ConsortiumBadName(size);
        Names.check(bytes(name));
        uint256 holder = stored().byName[keccak256(bytes(name))];
        if (holder != 0) revert ConsortiumNameInUse(uint8(holder - 1));
        if (stored().members.length >= MAX_MEMBERS) revert ConsortiumFull();
    }

    function _checkFree(address key) private view {
        if (stored().byAccount[key] != 0 || stored().byNode[key] != 0) revert ConsortiumKeyInUse(key);
    }

    /// @dev A standby is a claim that nobody has proved: it must not keep out whoever is admitted with
    /// that key or changes to it, or any member could veto both.
    function _endClaim(address key) private {
        uint256 index = stored().byStandby[key];
        if (index == 0) return;
        delete stored().byStandby[key];
        stored().members[index - 1].standby = address(0);
        emit StandbyChanged(uint8(index - 1), address(0));
    }

    function _isFreeOrOf(uint256 index, uint8 member) private pure returns (bool) {
        return index == 0 || index == uint256(member) + 1;
    }

    function _checkRemovable(uint8 member) private view {
        if (stored().presentMembers == member.bit()) revert ConsortiumLastMember();
        if (stored().validators & member.bit() != 0) _checkNotLastValidator(member);
    }

    function _checkNotLastValidator(uint8 member) private view {
        if (stored().validators == member.bit()) revert ConsortiumLastValidator();
    }

    function _remove(uint8 member) private {
        Member storage record = stored().members[member];
        delete stored().byAccount[record.account];
        delete stored().byNode[record.node];
        delete stored().byStandby[record.standby];
        delete stored().byName[keccak256(bytes(record.name))];
        delete record.standby;
        delete record.contact;
        delete record.contactAt;
        stored().presentMembers &= ~member.bit();
        stored().validators &= ~member.bit();
        emit MemberRemoved(member);
    }
}
