// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @title What node keys sign outside of transactions (EIP-712), for this contract on this chain only.
library Signatures {
    bytes32 private constant DOMAIN_TYPE = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );

    /// @notice What is signed for a message whose type and fields `content` is the hash of.
    function digest(bytes32 content) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN_TYPE,
                keccak256("swarm consortium"),
                keccak256("2"),
                block.chainid,
                address(this)
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, content));
    }

    /// @notice Who signed; nobody's address for bytes that are no signature.
    function signer(bytes32 signed, bytes calldata signature) internal pure returns (address) {
        if (signature.length != 65) return address(0);
        (bytes32 r, bytes32 s) = abi.decode(signature[:64], (bytes32, bytes32));
        return ecrecover(signed, uint8(signature[64]), r, s);
    }
}
