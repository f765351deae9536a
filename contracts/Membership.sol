// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";

/// @title Who belongs to the consortium, and whose nodes finalise blocks.
/// @notice Members decide about members; nobody owns this contract and nobody can pause it. An
/// account governs (it votes, and may be cold or a multisig); a node key works (it signs rounds and
/// blocks). More than half of the members admit or remove; whatever changes who can finalise blocks
/// needs two thirds of the endorsed: founders, and those whom two thirds of the endorsed backed.
abstract contract Membership {
    using MemberSets for uint256;
    using MemberSets for uint8;

    enum Kind {
        NONE,
        ADMIT,
        REMOVE,
        UPGRADE
    }

    enum ProposalStatus {
        NONE,
        OPEN,
        PASSED
    }

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
        string name;
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

    uint256 internal constant MAX_MEMBERS = 256;
    uint256 internal constant MAX_VALIDATORS = 21;
    uint256 internal constant MAX_NAME_BYTES = 64;
    uint256 internal constant PROPOSAL_LIFETIME_S = 30 days;
    uint256 internal constant DORMANT_S = 7 days;

    /// @notice The members of this moment.
    uint256 public presentMembers;
    uint256 internal _endorsed;
    uint256 internal _validators;
    /// @dev Turns the validators where there are more than `MAX_VALIDATORS`: a final round's seed.
    bytes32 internal _rotation;
    uint64 private _version = 1;
    uint64 private _nextVersion = 1;
    uint64 private _nextHeight;
    /// @dev Every member there ever was, by number; numbers are not given twice.
    Member[] internal _members;
    Proposal[] private _proposals;
    /// @dev Member number + 1, so that 0 says "nobody's".
    mapping(address key => uint256) private _byAccount;
    mapping(address key => uint256) private _byNode;

    error ConsortiumNoFounders();
    error ConsortiumNotMember(address sender);
    error ConsortiumUnknownMember(uint64 member);
    error ConsortiumZeroAddress();
    error ConsortiumKeyInUse(address key);
    error ConsortiumBadName(uint256 size);
    error ConsortiumFull();
    error ConsortiumBadKind();
    error ConsortiumBadVersion(uint64 version);
    error ConsortiumNoSuchProposal(uint256 proposal);
    error ConsortiumProposalClosed(uint256 proposal);
    error ConsortiumAlreadyVoted(uint256 proposal, uint8 member);
    error ConsortiumLastMember();
    error ConsortiumLastValidator();
    error ConsortiumNotEndorsed(uint8 member);
    error ConsortiumNotDormant(uint8 member, uint64 until);
    error ConsortiumTooFewAwake(uint256 awake, uint256 needed);

    event MemberAdmitted(uint8 indexed member, address account, address node, string name);
    event MemberRemoved(uint8 indexed member);
    event NodeChanged(uint8 indexed member, address from, address to);
    event ValidatorEndorsed(uint8 indexed member);
    event ValidatorActivated(uint8 indexed member);
    event ValidatorRetired(uint8 indexed member);
    event Proposed(
        uint256 indexed proposal,
        Kind kind,
        uint8 indexed proposer,
        address account,
        address node,
        string name,
        uint64 target,
        uint64 height
    );
    event Voted(uint256 indexed proposal, uint8 indexed member, bool support);
    event Passed(uint256 indexed proposal);
    event VersionScheduled(uint64 version, uint64 height);

    /// @notice Founders are numbered in the given order, endorsed, and validate from the first block.
    constructor(Founder[] memory founders) {
        if (founders.length == 0) revert ConsortiumNoFounders();
        for (uint256 i = 0; i < founders.length; ++i) {
            Founder memory founder = founders[i];
            uint8 member = _admit(founder.account, founder.node, founder.name);
            _endorsed |= member.bit();
            _validators |= member.bit();
            emit ValidatorEndorsed(member);
            emit ValidatorActivated(member);
        }
    }

    // Governing: what a member's account may do.

    /// @notice Open a proposal and vote for it with the same transaction.
    /// @dev In a consortium where one vote suffices it is carried out at once.
    /// @param kind ADMIT (`account`, `node`, `name`), REMOVE (`target`: member number) or UPGRADE
    /// (`target`: protocol version, `height`: the block from which it holds).
    /// @return number The proposal's number, counted from 1.
    function propose(
        Kind kind,
        address account,
        address node,
        string calldata name,
        uint64 target,
        uint64 height
    ) external returns (uint256 number) {
        uint8 member = _governor();
        if (kind == Kind.NONE) revert ConsortiumBadKind();
        if (kind == Kind.ADMIT) {
            _checkNewKeys(account, node, name);
        } else {
            if (bytes(name).length > MAX_NAME_BYTES) revert ConsortiumBadName(bytes(name).length);
            if (kind == Kind.REMOVE) _present(target);
            else if (target <= protocolVersion()) revert ConsortiumBadVersion(target);
        }
        Proposal storage proposal = _proposals.push();
        number = _proposals.length;
        proposal.kind = kind;
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
        uint8 member = _governor();
        if (number == 0 || number > _proposals.length) revert ConsortiumNoSuchProposal(number);
        _vote(member, number, _proposals[number - 1], support);
    }

    /// @notice End one's own membership.
    /// @dev WARNING: takes effect at once and for every plan. Only a vote of the others undoes it,
    /// under a new member number.
    function leave() external {
        uint8 member = _governor();
        _checkRemovable(member);
        _remove(member);
    }

    /// @notice Name another node key; the old one can do nothing from here on.
    /// @dev WARNING: the member stops validating until the new node, once synced, calls `activate`.
    function setNode(address node) external {
        uint8 member = _governor();
        if (node == address(0)) revert ConsortiumZeroAddress();
        Member storage record = _members[member];
        address old = record.node;
        uint256 asAccount = _byAccount[node];
        if (_byNode[node] != 0 || (asAccount != 0 && asAccount != uint256(member) + 1)) {
            revert ConsortiumKeyInUse(node);
        }
        if (_validators & member.bit() != 0) _checkNotLastValidator(member);
        delete _byNode[old];
        _byNode[node] = uint256(member) + 1;
        record.node = node;
        _validators &= ~member.bit();
        emit NodeChanged(member, old, node);
    }

    // Validating: what a member's node may do.

    /// @notice Become a validator, once synced. Repeated, it only shows life.
    function activate() external {
        uint8 member = _operator();
        uint256 bit = member.bit();
        if (_endorsed & bit == 0) revert ConsortiumNotEndorsed(member);
        if (_validators & bit == 0) {
            _validators |= bit;
            emit ValidatorActivated(member);
        }
        _members[member].seenAt = uint64(block.timestamp);
    }

    /// @notice Take a validator off that has sent nothing for seven days. Any member may.
    /// @dev Refused unless two thirds of the validators have been seen since: when a whole consortium
    /// slept, the first to wake must not be able to retire all the others and finalise alone.
    function retire(uint8 target) external {
        _either();
        _present(target);
        uint64 until = _members[target].seenAt + uint64(DORMANT_S);
        if (_validators & target.bit() == 0 || block.timestamp <= until) {
            revert ConsortiumNotDormant(target, until);
        }
        uint256 awake = 0;
        for (uint256 left = _validators; left != 0; left = left.dropLowest()) {
            if (block.timestamp <= _members[left.lowest()].seenAt + DORMANT_S) ++awake;
        }
        uint256 needed = _validators.count().twoThirds();
        if (awake < needed) revert ConsortiumTooFewAwake(awake, needed);
        _validators &= ~target.bit();
        emit ValidatorRetired(target);
    }

    // Views.

    /// @notice The nodes that finalise the next block: all active ones, or `MAX_VALIDATORS` of them,
    /// counted in a ring from a place that the newest well-attended round's seed gives.
    function getValidators() external view returns (address[] memory nodes) {
        uint256 total = _validators.count();
        uint256 size = total < MAX_VALIDATORS ? total : MAX_VALIDATORS;
        uint256 start = total > MAX_VALIDATORS ? uint256(_rotation) % total : 0;
        nodes = new address[](size);
        uint256 place = 0;
        for (uint256 left = _validators; left != 0; left = left.dropLowest()) {
            uint256 turn = (place + total - start) % total;
            if (turn < size) nodes[turn] = _members[left.lowest()].node;
            ++place;
        }
    }

    /// @notice Whether this key, as account or as node, may send transactions at all.
    function isMember(address key) external view returns (bool) {
        return _byAccount[key] != 0 || _byNode[key] != 0;
    }

    /// @notice The protocol version in force at this block.
    function protocolVersion() public view returns (uint64) {
        return block.number >= _nextHeight ? _nextVersion : _version;
    }

    /// @notice The version that was scheduled last, and the block from which it holds.
    function nextVersion() external view returns (uint64 version, uint64 height) {
        return (_nextVersion, _nextHeight);
    }

    struct MemberView {
        uint8 id;
        address account;
        address node;
        string name;
        bool present;
        bool endorsed;
        bool validator;
        uint64 seenAt;
    }

    /// @notice Every member there ever was, in member order; `present` says who still is one.
    function getMembers() external view returns (MemberView[] memory members) {
        members = new MemberView[](_members.length);
        for (uint256 i = 0; i < members.length; ++i) {
            Member storage member = _members[i];
            uint256 bit = 1 << i;
            members[i] = MemberView(
                uint8(i),
                member.account,
                member.node,
                member.name,
                presentMembers & bit != 0,
                _endorsed & bit != 0,
                _validators & bit != 0,
                member.seenAt
            );
        }
    }

    function proposalCount() external view returns (uint256) {
        return _proposals.length;
    }

    /// @notice Up to `count` proposals, the first with number `from` (counted from 1).
    function getProposals(uint256 from, uint256 count) external view returns (Proposal[] memory page) {
        uint256 total = _proposals.length;
        if (from == 0 || from > total) return page;
        if (count > total + 1 - from) count = total + 1 - from;
        page = new Proposal[](count);
        for (uint256 i = 0; i < count; ++i) {
            page[i] = _proposals[from - 1 + i];
        }
    }

    // Steps shared with the contracts that build on this one.

    /// @dev The member whose account signed.
    function _governor() internal view returns (uint8) {
        return _numbered(_byAccount[msg.sender]);
    }

    /// @dev The member whose node signed.
    function _operator() internal view returns (uint8) {
        return _numbered(_byNode[msg.sender]);
    }

    /// @dev The member whose account or node signed.
    function _either() internal view returns (uint8) {
        uint256 index = _byAccount[msg.sender];
        return _numbered(index != 0 ? index : _byNode[msg.sender]);
    }

    function _sawMember(uint8 member) internal {
        _members[member].seenAt = uint64(block.timestamp);
    }

    function _numbered(uint256 index) private view returns (uint8) {
        if (index == 0) revert ConsortiumNotMember(msg.sender);
        return uint8(index - 1);
    }

    function _present(uint64 target) private view returns (uint8) {
        if (target >= MAX_MEMBERS || presentMembers & (1 << target) == 0) {
            revert ConsortiumUnknownMember(target);
        }
        return uint8(target);
    }

    function _vote(uint8 member, uint256 number, Proposal storage proposal, bool support) private {
        Kind kind = proposal.kind;
        bool passed = proposal.status == ProposalStatus.PASSED;
        bool endorsing = passed && kind == Kind.ADMIT;
        bool lapsed = block.timestamp > proposal.openedAt + PROPOSAL_LIFETIME_S;
        if (lapsed || (passed && !endorsing)) revert ConsortiumProposalClosed(number);
        uint256 bit = member.bit();
        if ((proposal.ayes | proposal.noes) & bit != 0) revert ConsortiumAlreadyVoted(number, member);
        emit Voted(number, member, support);
        if (support) proposal.ayes |= bit;
        else proposal.noes |= bit;
        if (!passed && _carries(proposal)) {
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
                || (kind == Kind.REMOVE && _validators & (1 << proposal.target) != 0)
        ) return _isBacked(proposal);
        return (proposal.ayes & presentMembers).count() >= presentMembers.count().majority();
    }

    /// @dev Whether two thirds of the endorsed members are for it. There is always one: validators
    /// are endorsed, and the last validator cannot go.
    function _isBacked(Proposal storage proposal) private view returns (bool) {
        uint256 voters = presentMembers & _endorsed;
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
            uint64 current = protocolVersion();
            if (proposal.target <= current) revert ConsortiumBadVersion(proposal.target);
            _version = current;
            _nextVersion = proposal.target;
            _nextHeight = proposal.height;
            emit VersionScheduled(proposal.target, proposal.height);
        }
    }

    /// @dev The newcomer is not among the endorsed yet, so it does not endorse itself.
    function _endorse(Proposal storage proposal) private {
        uint256 bit = proposal.admitted.bit();
        if (_endorsed & bit != 0 || !_isBacked(proposal)) return;
        _endorsed |= bit;
        emit ValidatorEndorsed(proposal.admitted);
    }

    function _admit(address account, address node, string memory name) private returns (uint8 member) {
        _checkNewKeys(account, node, name);
        member = uint8(_members.length);
        _members.push(Member(account, uint64(block.timestamp), node, name));
        _byAccount[account] = uint256(member) + 1;
        _byNode[node] = uint256(member) + 1;
        presentMembers |= member.bit();
        emit MemberAdmitted(member, account, node, name);
    }

    function _checkNewKeys(address account, address node, string memory name) private view {
        if (account == address(0) || node == address(0)) revert ConsortiumZeroAddress();
        if (_byAccount[account] != 0 || _byNode[account] != 0) revert ConsortiumKeyInUse(account);
        if (_byAccount[node] != 0 || _byNode[node] != 0) revert ConsortiumKeyInUse(node);
        uint256 size = bytes(name).length;
        if (size == 0 || size > MAX_NAME_BYTES) revert ConsortiumBadName(size);
        if (_members.length >= MAX_MEMBERS) revert ConsortiumFull();
    }

    function _checkRemovable(uint8 member) private view {
        if (presentMembers == member.bit()) revert ConsortiumLastMember();
        if (_validators & member.bit() != 0) _checkNotLastValidator(member);
    }

    function _checkNotLastValidator(uint8 member) private view {
        if (_validators == member.bit()) revert ConsortiumLastValidator();
    }

    function _remove(uint8 member) private {
        Member storage record = _members[member];
        delete _byAccount[record.account];
        delete _byNode[record.node];
        presentMembers &= ~member.bit();
        _validators &= ~member.bit();
        emit MemberRemoved(member);
    }
}
