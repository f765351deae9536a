// npx hardhat run hardhat.js --network swarm: docs/clients.md with Hardhat.
const hre = require("hardhat"), fs = require("fs");
const AT = "0x000000000000000000000000000000737761726d";
(async () => {
  const { abi } = JSON.parse(fs.readFileSync(process.env.SWARM_ARTIFACT));
  const [signer] = await hre.ethers.getSigners();
  const contract = await hre.ethers.getContractAt(abi, AT, signer);
  const members = await contract.getMembers(0, 32);
  const zero = hre.ethers.ZeroAddress;
  const sent = await contract.propose(2, zero, zero, "", 1, 0);
  const receipt = await sent.wait();
  const events = await contract.queryFilter("Proposed", receipt.blockNumber, receipt.blockNumber);
  let refusal = "";
  try { await contract.vote.staticCall(99, true); } catch (error) { refusal = contract.interface.parseError(error.data)?.name; }
  console.log(JSON.stringify({
    members: members.length, status: receipt.status, events: events.length, refusal,
    price: receipt.gasPrice.toString(), transaction: sent.hash,
  }));
})().catch((error) => { console.error(error); process.exit(1); });
