// docs/clients.md with Hardhat: the network, and the key that signs.
require("@nomicfoundation/hardhat-ethers");
module.exports = {
  solidity: "0.8.28",
  networks: { swarm: { url: process.env.SWARM_RPC, accounts: [process.env.SWARM_KEY] } },
};
