// npx hardhat run hardhat.js --network swarm: docs/clients.md with Hardhat.
const hre = require("hardhat");
const AT = "0x000000000000000000000000000000737761726d";
(async () => {
  const [signer] = await hre.ethers.getSigners();
  const contract = await hre.ethers.getContractAt("Consortium", AT, signer);
  const members = await contract.getMembers(0, 32);
  const zero = hre.ethers.ZeroAddress;
  const sent = await contract.propose(2, zero, zero, "", 1, 0);
  const receipt = await sent.wait();
  const events = await contract.queryFilter("Proposed", receipt.blockNumber, receipt.blockNumber);
  let refusal = "";
  try { await contract.vote.staticCall(99, true); } catch (error) { refusal = contract.interface.parseError(error.data)?.name; }
  const provider = hre.ethers.provider, at = hre.ethers.toQuantity(receipt.blockNumber);
  const { accountProof } = await provider.send("eth_getProof", [AT, [], at]);
  const { stateRoot } = await provider.send("eth_getBlockByNumber", [at, false]);
  console.log(JSON.stringify({
    proof: hre.ethers.keccak256(accountProof[0]) === stateRoot,
    members: members.length, status: receipt.status, events: events.length, refusal,
    price: receipt.gasPrice.toString(), transaction: sent.hash,
  }));
})().catch((error) => { console.error(error); process.exit(1); });
